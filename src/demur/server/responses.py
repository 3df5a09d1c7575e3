"""What an answer looks like: OpenAI's chat completion and its chunks, with what demur adds to them.

A refusal is in `refusal`, with `content` null. `content_filter_results` names every category, as
Azure's API does, so that evaluation tools see which one it was. `demur` says what was decided under
which policy.
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


class FilterResult(BaseModel):
    """Whether a category was refused with."""

    filtered: bool
    detected: bool


class Message(BaseModel):
    """An answer, or a refusal."""

    role: Literal["assistant"] = "assistant"
    content: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = (
        None  # of a model behind that thinks apart from its answer; left out if there is none
    )
    tool_calls: list[dict[str, Any]] | None = None  # left out if there are none


class Choice(BaseModel):
    """One of n answers."""

    index: int
    message: Message
    logprobs: None = None
    finish_reason: FinishReason
    content_filter_results: dict[str, FilterResult]


class Usage(BaseModel):
    """Tokens. The control token is counted on neither side."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Note(BaseModel):
    """The "demur" object of an answer."""

    decision: Literal["respond", "refuse", "undecided"]
    category: str | None  # refused with
    policy: str
    policy_hash: str  # of the stored policy, before overrides
    overridden: bool  # whether the caller moved a threshold
    promises: Promises
    scores: dict[str, float] | None = None  # operators only: log-probability by choice
    margin: float | None = None  # operators only: log-odds beyond the threshold
    # Refused for text in tools or a schema, or decided without the turns before; left out
    # otherwise.
    decided_on: Literal["declared", "latest turn"] | None = None
    doubt: str | None = None  # why the score decides nothing; left out where it does
    leftover: float | None = None  # operators only: probability outside the control tokens


class ChatCompletion(BaseModel):
    """The body of an answer that is not streamed."""

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
    """What all pieces of one answer share."""

    id: str
    created: int  # seconds since 1970
    model: str
    system_fingerprint: str
    taxonomy: Sequence[str]  # category names
    note: Mapping[str, Any]

    def completion(
        self, choices: Sequence[dict[str, Any]], usage: dict[str, int]
    ) -> dict[str, Any]:
        """A whole answer."""
        head = self._common("chat.completion")
        return {**head, "choices": list(choices), "usage": usage, "demur": dict(self.note)}

    def chunk(self, choice: dict[str, Any], *, with_note: bool = False) -> dict[str, Any]:
        """A piece of a streamed answer. OpenAI's client keeps the extra fields of the first piece
        only.
        """
        head = {**self._common("chat.completion.chunk"), "choices": [choice]}
        return {**head, "demur": dict(self.note)} if with_note else head

    def usage_chunk(self, usage: dict[str, int]) -> dict[str, Any]:
        """The piece after the last, for those who asked for it."""
        return {**self._common("chat.completion.chunk"), "choices": [], "usage": usage}

    def filter_results(self, category: str | None) -> dict[str, dict[str, bool]]:
        """Which category was refused with."""
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
    """Usage, as a JSON value."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def scores_of(policy: Policy, decision: Decision, logp_C: Floats) -> dict[str, Any]:
    """What operators see of a decision. The margin is null where nothing was compared."""
    scores = dict(zip(policy.taxonomy.choices, map(float, logp_C), strict=True))
    margin = decision.margin if math.isfinite(decision.margin) else None
    return {"scores": scores, "margin": margin, "leftover": float(leftover_of(logp_C[None, :])[0])}


def finish_reason(finish: Finish, *, refused: bool, of_refusals: RefusalFinish) -> FinishReason:
    """Why an answer ended, in OpenAI's words: for a refusal as the operator chose."""
    return "content_filter" if refused and of_refusals == "content_filter" else finish


def tool_call_deltas(calls: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Tool calls as a chunk carries them: each with its index."""
    return [{"index": at, **call} for at, call in enumerate(calls)]
