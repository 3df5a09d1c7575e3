"""Response bodies: OpenAI's chat completion and its chunks, with demur's fields.

1. A refusal is in `refusal`, with `content` null; a deferral's text is in `content`.
2. `content_filter_results` lists every category, as Azure's API does, so that evaluation tools see
   which one refused.
3. `demur` holds the decision and the policy that made it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel

from demur.base.arrays import Floats
from demur.core.decision import Decision
from demur.core.policy import Policy
from demur.core.score import leftover_of
from demur.core.serving import Finish
from demur.core.threshold import OnDefer, Outcome
from demur.server.settings import RefusalFinish

FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]
Promises = Literal[
    "certified",
    "certified, drift seen",
    "certified, not watched",
    "no longer supported",
    "not certified",
    "void",
    "none",
]


# "defer": the operator's text is the answer, and nothing was generated
DecisionWord = Literal["respond", "refuse", "defer", "undecided"]
_WORDS: Mapping[Outcome, DecisionWord] = {"answer": "respond", "refuse": "refuse", "defer": "defer"}


class FilterResult(BaseModel):
    """Whether one category refused the request; both fields are always equal."""

    filtered: bool
    detected: bool


class Message(BaseModel):
    """An assistant message: an answer, a refusal or tool calls."""

    role: Literal["assistant"] = "assistant"
    content: str | None = None
    refusal: str | None = None
    # of a model behind that thinks apart from its answer; left out if there is none
    reasoning_content: str | None = None
    tool_calls: list[dict[str, Any]] | None = None  # left out if there are none


class StopNote(BaseModel):
    """The "demur" object of a choice that the policy's monitor stopped; others have none."""

    stopped: Literal[True] = True
    category: str
    position: int  # tokens of the answer ahead of the stop
    leaked: int  # of these, tokens that had been sent: 0 where nothing is streamed


class Choice(BaseModel):
    """One of n answers."""

    index: int
    message: Message
    logprobs: None = None
    finish_reason: FinishReason
    content_filter_results: dict[str, FilterResult]
    demur: StopNote | None = None  # left out unless the answer was stopped


class Usage(BaseModel):
    """Token counts. The control token is counted on neither side."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Note(BaseModel):
    """The "demur" object of a response: the decision and where it comes from."""

    decision: DecisionWord
    category: str | None  # refused or deferred with
    policy: str
    policy_hash: str  # of the stored policy, before overrides
    overridden: bool  # whether the caller moved a threshold
    promises: Promises
    scores: dict[str, float] | None = None  # operators only: log-probability by choice
    margin: float | None = None  # operators only: log-odds beyond the threshold
    # Refused for text in tools or a schema, or decided without the turns before; left out
    # otherwise.
    decided_on: Literal["declared", "latest turn"] | None = None
    on_defer: OnDefer | None = None  # of a deferral; left out otherwise
    doubt: str | None = None  # why the score decides nothing; left out where it does
    leftover: float | None = None  # operators only: probability outside the control tokens


class ChatCompletion(BaseModel):
    """The body of a response that is not streamed."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[Choice]
    usage: Usage
    demur: Note


@dataclass(frozen=True, kw_only=True, slots=True)
class ResponseHead:
    """The fields that a response and all chunks of a stream share."""

    id: str
    created: int  # seconds since 1970
    model: str
    system_fingerprint: str
    taxonomy: Sequence[str]  # category names
    note: Mapping[str, Any]

    def completion(
        self, choices: Sequence[dict[str, Any]], usage: dict[str, int]
    ) -> dict[str, Any]:
        """Return the body of a whole response."""
        head = self._common("chat.completion")
        return {**head, "choices": list(choices), "usage": usage, "demur": dict(self.note)}

    def chunk(self, choice: dict[str, Any], *, with_note: bool = False) -> dict[str, Any]:
        """Return a chunk of a stream. OpenAI's client keeps a note only of the first chunk."""
        head = {**self._common("chat.completion.chunk"), "choices": [choice]}
        return {**head, "demur": dict(self.note)} if with_note else head

    def usage_chunk(self, usage: dict[str, int]) -> dict[str, Any]:
        """Return the chunk after the last, which carries only the usage."""
        return {**self._common("chat.completion.chunk"), "choices": [], "usage": usage}

    def filter_results(self, category: str | None) -> dict[str, dict[str, bool]]:
        """Return the filter result of every category; that of `category` is true."""
        return {
            name: {"filtered": name == category, "detected": name == category}
            for name in self.taxonomy
        }

    def _common(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.system_fingerprint,
        }


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """Return OpenAI's usage object."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def decision_word(decision: Decision) -> DecisionWord:
    """Return a decision as answers and logs have it."""
    return _WORDS[decision.outcome]


def action_of(policy: Policy, decision: Decision) -> OnDefer | None:
    """Return what the policy does about a deferral; None where nothing is deferred."""
    return None if decision.deferred is None else policy.category(decision.deferred).on_defer


def scores_of(policy: Policy, decision: Decision, logp_C: Floats) -> dict[str, Any]:
    """Return the operators' fields of the note: scores, margin and leftover mass.

    logp_C: natural-log probability of each choice. The margin is None where it is infinite.
    """
    scores = dict(zip(policy.taxonomy.choices, map(float, logp_C), strict=True))
    margin = decision.margin if math.isfinite(decision.margin) else None
    return {"scores": scores, "margin": margin, "leftover": float(leftover_of(logp_C[None, :])[0])}


def finish_reason(finish: Finish, *, refused: bool, of_refusals: RefusalFinish) -> FinishReason:
    """Return OpenAI's finish reason; for a refusal the one that the operator chose."""
    return "content_filter" if refused and of_refusals == "content_filter" else finish


def tool_call_deltas(calls: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return tool calls in the form of a chunk: each with its index."""
    return [{"index": at, **call} for at, call in enumerate(calls)]
