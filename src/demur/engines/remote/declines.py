"""Recognise declines in an endpoint's replies and errors, and name errors without quoting them.

1. Hosted services decline in many forms: an error with a code, a finish reason, a block reason
   instead of choices. Each becomes one short reason from this file.
2. An error counts as a decline by its code first; by its prose only where no code says otherwise.
3. An endpoint's own words are never passed on: they may repeat a prompt.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from demur.base.errors import ScoreDoubt

FILTER: Final = "content_filter"  # OpenAI's finish reason; also of a decline without a reason
NO_CHOICES = "no choices"
REFUSAL = "refusal"  # the model's own, in a field of its own
_BLOCKED_STATUS = 451  # "Unavailable For Legal Reasons"
MAY_DECLINE = (400, 403, 422, 451)  # statuses whose prose may be a decline
MOST_NODES = 200  # values of an error that are searched: errors come from outside
_DEPTH = 6

# Error codes of filters, letters only: Azure, OpenAI, Alibaba, Zhipu, AWS, Google and proxies in
# front of them.
_CODES = frozenset(
    """
    contentfilter contentfiltered contentfiltering contentfiltererror
    responsibleaipolicyviolation contentpolicyviolation contentpolicyviolationerror
    contentpolicy policyviolation moderation moderationblocked inputmoderation
    outputmoderation moderationerror flagged datainspectionfailed sensitivecontent
    inputtextsensitivecontentdetected guardrailintervened guardrailviolation guardrailblocked
    contentblocked promptblocked safetyerror safetyblocked safetyviolation unsafecontent
    usagepolicyviolation invalidprompt jailbreak prohibitedcontent blockedbyfilter blocklist
    refusal cyberpolicyviolation
    """.split()  # noqa: SIM905 - one word a line would take a page
)
# Finish and block reasons, letters only -> our reason.
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
# Prose that tells a decline, searched only where no error code says otherwise.
_WORDS = re.compile(
    r"content[ _-]?(?:management|filter\w*|policy|moderation)|flagged|moderation|safety "
    r"(?:system|filter|polic)"
    r"|usage polic|responsible ai|(?:blocked|rejected|filtered) (?:by|due|because|for)|policy "
    r"violation"
    r"|prohibited content|sensitive (?:content|information)|violat\w+ (?:\w+ ){0,3}polic",
    re.I,
)
# Codes of other errors than declines. Being known words, they may be logged as they are.
_OTHER_CODES = frozenset(
    """
    context_length_exceeded string_above_max_length invalid_request_error
    unsupported_parameter unsupported_value unknown_parameter missing_required_parameter
    invalid_value invalid_type model_not_found invalid_api_key insufficient_quota
    rate_limit_exceeded invalid_json integer_above_max_value integer_below_min_value
    decimal_above_max_value server_error BadRequestError NotFoundError InternalServerError
    DeploymentNotFound OperationNotSupported unsupported_country_region_territory
    invalid_image_format json_validate_failed too_long
    """.split()  # noqa: SIM905 - one word a line would take a page
)
# Codes that rule a decline out. The three others are so general that filters use them too.
_SPECIFIC = _OTHER_CODES - {"invalid_request_error", "BadRequestError", "invalid_value"}
_PARAMS = frozenset(
    """
    max_tokens max_completion_tokens temperature top_p seed stop stream stream_options
    messages model response_format tools tool_choice logprobs top_logprobs logit_bias
    structured_outputs prompt
    """.split()  # noqa: SIM905 - one word a line would take a page
)
_CODE_KEYS = ("code", "type", "status", "reason", "block_reason", "blockReason", "finish_reason")


class FilteredDecline(ScoreDoubt):
    """An endpoint's filter declined a request. `reason` is one of this module's reasons."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"the endpoint declined the request: {reason}",
            "its own filter decided; ask something else",
        )
        self.reason = reason


def decline_word(value: Any) -> str | None:
    """Our reason for a finish, stop or block reason; None where it does not tell a decline."""
    return _REASONS.get(_letters(value)) if isinstance(value, str) else None


def declined_error(error: Any, status: int | None = None) -> str | None:
    """Our reason for an error that is a decline; None for any other error.

    error: the body's `error`, or the whole body. status: of HTTP; None for an error within a stream
    or a 200.
    """
    if status == _BLOCKED_STATUS:
        return "blocked (HTTP 451)"
    where = "" if status in (None, 200) else f" (HTTP {status})"
    nodes = list(_nodes(error))
    codes = [v for k, v in nodes if k in _CODE_KEYS and isinstance(v, str)]
    # OpenRouter has no code for it, but a field that quotes the flagged prompt
    if any(_letters(v) in _CODES for v in codes) or any(k == "flagged_input" for k, _ in nodes):
        return f"{FILTER}{where}"
    if status is not None and status != 200 and status not in MAY_DECLINE:
        return None
    if any(v in _SPECIFIC for v in codes):
        return None
    # The key "" belongs to the error itself where it is a mere text.
    prose_keys = ("message", "error", "detail", "")
    prose = [v for k, v in nodes if k in prose_keys and isinstance(v, str)]
    return f"{FILTER}{where}" if any(_WORDS.search(v[:500]) for v in prose) else None


def error_words(error: Any) -> str:
    """An error's code and parameter in brackets, where they are known words; else an empty text.

    Its prose is never returned.
    """
    found = list(_nodes(error))
    codes = {
        v for k, v in found if k in ("code", "type") and isinstance(v, str) and v in _OTHER_CODES
    }
    params = {v for k, v in found if k == "param" and isinstance(v, str) and v in _PARAMS}
    words = [*(f"code {c}" for c in sorted(codes)), *(f"parameter {p}" for p in sorted(params))]
    return f" ({', '.join(words)})" if words else ""


def printable_name(name: str) -> str:
    """A name that an endpoint sent, quoted for a log if it has the form of a name."""
    return repr(name) if re.fullmatch(r"[\w./:@+-]{1,96}", name) else "a name of no such form"


def _letters(value: str) -> str:
    """The letters of a code in lower case, so that its spellings compare equal."""
    return re.sub(r"[^a-z]", "", value[:80].lower())


def _nodes(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield (key, value) of everything in a parsed error, breadth first.

    A list's items have the list's key. At most MOST_NODES values, _DEPTH levels deep.
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
