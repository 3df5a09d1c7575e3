"""How an endpoint says that its own filter, or its model, declined; and what may be said of its
errors.

Hosted services decline in many forms: an error with a code, a finish reason, a block reason instead
of choices. Each becomes one short reason from this file. An endpoint's own words never do: they may
repeat what people said.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from demur.base.errors import ScoreDoubt

# OpenAI's word, and the reason of a decline that says nothing more
FILTER: Final = "content_filter"
NO_CHOICES = "no choices"
REFUSAL = "refusal"  # the model's own, in a field of its own
_BLOCKED_STATUS = 451
MAY_DECLINE = (400, 403, 422, 451)
MOST_NODES = 200  # of an error that are looked at
_DEPTH = 6

# Codes of errors, letters only: Azure, OpenAI, Alibaba, Zhipu, AWS, Google and proxies in front of
# them.
_CODES = frozenset(
    (
        *(
            "contentfilter",
            "contentfiltered",
            "contentfiltering",
            "contentfiltererror",
            "responsibleaipolicyviolation",
        ),
        *(
            "contentpolicyviolation",
            "contentpolicyviolationerror",
            "contentpolicy",
            "policyviolation",
        ),
        *(
            "moderation",
            "moderationblocked",
            "inputmoderation",
            "outputmoderation",
            "moderationerror",
            "flagged",
        ),
        *("datainspectionfailed", "sensitivecontent", "inputtextsensitivecontentdetected"),
        *(
            "guardrailintervened",
            "guardrailviolation",
            "guardrailblocked",
            "contentblocked",
            "promptblocked",
        ),
        *(
            "safetyerror",
            "safetyblocked",
            "safetyviolation",
            "unsafecontent",
            "usagepolicyviolation",
            "invalidprompt",
        ),
        *(
            "jailbreak",
            "prohibitedcontent",
            "blockedbyfilter",
            "blocklist",
            "refusal",
            "cyberpolicyviolation",
        ),
    )
)
# Finish and block reasons, letters only.
_REASONS = {
    "contentfilter": FILTER,
    "contentfiltered": FILTER,
    "filtered": FILTER,
    "safety": "safety",
    "imagesafety": "safety",
    "recitation": "recitation",
    "refusal": REFUSAL,
    "refused": REFUSAL,
    "sensitive": "sensitive",
    "moderation": "moderation",
    "blocklist": "blocklist",
    "prohibitedcontent": "prohibited_content",
    "spii": "spii",
    "guardrailintervened": "guardrail",
    "guardrail": "guardrail",
    "blocked": "blocked",
    "blockedbysafety": "safety",
    "modelarmor": "guardrail",
    "jailbreak": "jailbreak",
}
# What says so in prose, where an error has no code that is known for something else.
_WORDS = re.compile(
    r"content[ _-]?(?:management|filter\w*|policy|moderation)|flagged|moderation|safety "
    r"(?:system|filter|polic)"
    r"|usage polic|responsible ai|(?:blocked|rejected|filtered) (?:by|due|because|for)|policy "
    r"violation"
    r"|prohibited content|sensitive (?:content|information)|violat\w+ (?:\w+ ){0,3}polic",
    re.I,
)
# Codes that mean something else; they may stand in a log as they are.
_OTHER_CODES = frozenset(
    (
        *(
            "context_length_exceeded",
            "string_above_max_length",
            "invalid_request_error",
            "unsupported_parameter",
        ),
        *(
            "unsupported_value",
            "unknown_parameter",
            "missing_required_parameter",
            "invalid_value",
            "invalid_type",
        ),
        *(
            "model_not_found",
            "invalid_api_key",
            "insufficient_quota",
            "rate_limit_exceeded",
            "invalid_json",
        ),
        *(
            "integer_above_max_value",
            "integer_below_min_value",
            "decimal_above_max_value",
            "server_error",
        ),
        *(
            "BadRequestError",
            "NotFoundError",
            "InternalServerError",
            "DeploymentNotFound",
            "OperationNotSupported",
        ),
        *(
            "unsupported_country_region_territory",
            "invalid_image_format",
            "json_validate_failed",
            "too_long",
        ),
    )
)
_SPECIFIC = _OTHER_CODES - {"invalid_request_error", "BadRequestError", "invalid_value"}
_PARAMS = frozenset(
    (
        *(
            "max_tokens",
            "max_completion_tokens",
            "temperature",
            "top_p",
            "seed",
            "stop",
            "stream",
            "stream_options",
        ),
        *(
            "messages",
            "model",
            "response_format",
            "tools",
            "tool_choice",
            "logprobs",
            "top_logprobs",
            "logit_bias",
        ),
        *("structured_outputs", "prompt"),
    )
)
_TOLD_KEYS = ("code", "type", "status", "reason", "block_reason", "blockReason", "finish_reason")


class FilteredDecline(ScoreDoubt):
    """An endpoint's filter declined a request. `reason` is one of this file's words."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"the endpoint declined the request: {reason}",
            "its own filter decided; ask something else",
        )
        self.reason = reason


def decline_word(value: Any) -> str | None:
    """The reason behind a finish, stop or block reason; None where it is no decline."""
    return _REASONS.get(_letters(value)) if isinstance(value, str) else None


def declined_error(error: Any, status: int | None = None) -> str | None:
    """The reason if an error is a decline, else None.

    error: the body's `error`, or the whole body. status: of HTTP; None for an error that came
    within a stream or a 200.
    """
    if status == _BLOCKED_STATUS:
        return "blocked (HTTP 451)"
    where = "" if status in (None, 200) else f" (HTTP {status})"
    told = [v for k, v in _nodes(error) if k in _TOLD_KEYS and isinstance(v, str)]
    keys = {k for k, _ in _nodes(error)}
    if any(_letters(v) in _CODES for v in told) or "flagged_input" in keys:
        return f"{FILTER}{where}"
    if status is not None and status != 200 and status not in MAY_DECLINE:
        return None
    if any(v in _SPECIFIC for v in told):
        return None
    prose = [
        v
        for k, v in _nodes(error)
        if k in ("message", "error", "detail", "") and isinstance(v, str)
    ]
    return f"{FILTER}{where}" if any(_WORDS.search(v[:500]) for v in prose) else None


def error_words(error: Any) -> str:
    """An error's code and parameter in brackets where they are known words; empty if none is. Never
    its prose.
    """
    found = list(_nodes(error))
    codes = {
        v for k, v in found if k in ("code", "type") and isinstance(v, str) and v in _OTHER_CODES
    }
    params = {v for k, v in found if k == "param" and isinstance(v, str) and v in _PARAMS}
    words = [*(f"code {c}" for c in sorted(codes)), *(f"parameter {p}" for p in sorted(params))]
    return f" ({', '.join(words)})" if words else ""


def printable_name(name: str) -> str:
    """A name that an endpoint gave itself or its model, if it looks like one."""
    return repr(name) if re.fullmatch(r"[\w./:@+-]{1,96}", name) else "a name of no such form"


def _letters(value: str) -> str:
    return re.sub(r"[^a-z]", "", value[:80].lower())


def _nodes(value: Any) -> Iterator[tuple[str, Any]]:
    """(key, value) of everything in a parsed error, breadth first, bounded; the key of a list's
    items is the list's.
    """
    queue: list[tuple[str, Any, int]] = [("", value, 0)]
    for _ in range(MOST_NODES):
        if not queue:
            return
        key, node, depth = queue.pop(0)
        yield key, node
        inside: list[tuple[str, Any]] = []
        if isinstance(node, Mapping):
            inside = [(str(k), v) for k, v in list(node.items())[:MOST_NODES]]
        elif isinstance(node, list):
            inside = [(key, v) for v in node[:MOST_NODES]]
        if depth < _DEPTH:
            queue += [(k, v, depth + 1) for k, v in inside]
