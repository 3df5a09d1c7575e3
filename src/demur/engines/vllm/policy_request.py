"""Parse the policy that a vLLM request names, and check its sampling parameters beside a policy.

1. A request carries flat values in `vllm_xargs`: the name of a policy, the digest of the version
   that it expects, and one threshold per category that it moves.
2. None of them is ignored: a value that cannot be honoured is refused.
vLLM is not imported here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from demur.base.errors import AccessError
from demur.base.suggest import suggest
from demur.core.policy import Policy
from demur.core.threshold import NEVER

PREFIX = "demur_"
POLICY, DIGEST, THRESHOLD = f"{PREFIX}policy", f"{PREFIX}digest", f"{PREFIX}threshold_"
# The effective policy on its way to the worker. RefusalGate.validate_params overwrites a client's
# value.
EFFECTIVE = f"{PREFIX}effective"
NEVER_WORD = "never"  # JSON has no infinity

# Sampling parameters that hide control tokens, or shift the score before the plug-in sees it in one
# of vLLM's two model runners: name -> (its neutral values, why any other is refused).
_CONFLICTS: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "structured_outputs": (
        (None,),
        "a grammar hides the control tokens: decide first, with max_tokens=1",
    ),
    "logit_bias": ((None, {}), "it shifts the score that the policy reads"),
    "allowed_token_ids": ((None,), "it hides tokens from the score that the policy reads"),
    "bad_words": ((None, []), "they are hidden from the score that the policy reads"),
    "min_tokens": ((None, 0), "it hides the end token from the score that the policy reads"),
    "repetition_penalty": (
        (None, 1.0),
        "it shifts the score; if you sent none, start with --generation-config vllm",
    ),
    "thinking_token_budget": ((None,), "it forces tokens over the policy's"),
    "trace_decode_token_ids": ((None, []), "it forces tokens over the policy's"),
}

# Parameters that sample otherwise than any monitor's answers were, but for their neutral values.
_OTHERWISE: Mapping[str, tuple[Any, ...]] = {
    "top_k": (None, 0, -1),
    "min_p": (None, 0.0),
    "presence_penalty": (None, 0.0),
    "frequency_penalty": (None, 0.0),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyRequest:
    """The policy, its version and the thresholds that a request names in `vllm_xargs`."""

    policy: str | None = None
    digest: str | None = None  # of the version that the caller has in mind
    thresholds: Mapping[str, float] = field(default_factory=dict)  # by category


def read_request(extra_args: Mapping[str, Any] | None) -> PolicyRequest:
    """Parse a request's extra arguments; those of other plug-ins are ignored.

    Raises AccessError on an unknown key with our prefix and on a value of the wrong type.
    """
    ours = {k: v for k, v in (extra_args or {}).items() if k.startswith(PREFIX) and k != EFFECTIVE}
    thresholds = {
        k.removeprefix(THRESHOLD): _threshold(k, v)
        for k, v in ours.items()
        if k.startswith(THRESHOLD)
    }
    for key in ours:
        if key not in (POLICY, DIGEST) and not key.startswith(THRESHOLD):
            known = f"known: {POLICY}, {DIGEST}, {THRESHOLD}CATEGORY"
            hint = suggest(key, (POLICY, DIGEST, THRESHOLD), known)
            raise AccessError(
                f"unknown parameter {key!r}", hint, code="unknown_parameter", param=key
            )
    return PolicyRequest(
        policy=_text(ours, POLICY), digest=_text(ours, DIGEST), thresholds=thresholds
    )


def check_sampling(params: Any) -> None:
    """Raise AccessError if vLLM's SamplingParams hold a setting that conflicts with a policy."""
    for name, (neutral, reason) in _CONFLICTS.items():
        value = getattr(params, name, None)
        if value not in neutral:
            raise AccessError(
                f"{name} cannot be combined with a policy",
                reason,
                code="unsupported_combination",
                param=name,
            )


def check_answers(policy: Policy, params: Any) -> None:
    """Raise AccessError unless a policy's monitor was calibrated on answers like those of vLLM's
    SamplingParams: no longer, and sampled alike. Its promise is about no others.
    """
    if policy.monitor is None:
        return
    answers = policy.monitor.answers
    otherwise = [n for n, same in _OTHERWISE.items() if getattr(params, n, None) not in same]
    # The control token takes one place.
    most = math.inf if params.max_tokens is None else params.max_tokens - 1
    alike = params.temperature == answers.temperature and (
        answers.temperature == 0.0 or params.top_p == answers.top_p
    )
    if not alike or otherwise or most > answers.most_tokens:
        asked = ", ".join(
            f"{n} {getattr(params, n, None)}"
            for n in ("max_tokens", "temperature", "top_p", *otherwise)
        )
        raise AccessError(
            f"policy {policy.name!r}: its monitor was calibrated on answers of {answers.text}, and "
            f"{asked} is asked for",
            f"ask for max_tokens of at most {answers.most_tokens + 1}, one for the control token, "
            "and for the same sampling; if you sent none, start with --generation-config vllm",
            code="unsupported_combination",
            param="max_tokens" if alike and not otherwise else "temperature",
        )


def is_stateless(policy: Policy) -> bool:
    """Whether the plug-in can act on a policy: its monitor, if any, adds nothing up.

    vLLM drops a preempted answer's place, and a sum over its positions with it.
    """
    return policy.monitor is None or policy.monitor.statistic == "maximum"


def require_stateless(policy: Policy) -> None:
    """Raise AccessError unless the plug-in can act on a policy."""
    if not is_stateless(policy):
        raise AccessError(
            f"policy {policy.name!r} has a monitor that adds up over an answer, and the plug-in "
            "keeps no sum when vLLM preempts it",
            'use statistic "maximum", or put demur serve in front, which watches such an answer '
            "itself",
            code="unsupported_combination",
            param=POLICY,
        )


def is_beam_search(params: Any) -> bool:
    """Whether vLLM's SamplingParams are one step of its beam search.

    Beam search drops the request's extra arguments and chooses tokens by raw log-probabilities, so
    no policy would apply.
    """
    # Recognised by detokenize=False with log-probabilities, which no HTTP route lets a client set.
    return (
        not params.detokenize
        and params.max_tokens == 1
        and (params.logprobs or 0) > 1
        and not params.extra_args
    )


def _threshold(key: str, value: Any) -> float:
    """A threshold of a request. Raises AccessError on a value of another type."""
    if value == NEVER_WORD:
        return NEVER
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise AccessError(
            f"{key} = {value!r} is no threshold",
            f'give a number in [0, 1], or "{NEVER_WORD}"',
            code="invalid_value",
            param=key,
        )
    return float(value)


def _text(values: Mapping[str, Any], key: str) -> str | None:
    """The text under a key; None where it is missing. Raises AccessError on another type."""
    value = values.get(key)
    if value is not None and not isinstance(value, str):
        raise AccessError(
            f"{key} = {value!r} is no text", "give a name", code="invalid_value", param=key
        )
    return value
