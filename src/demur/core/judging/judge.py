"""Judging many answers, and the ports of judges that are models themselves.

ChatModel is implemented by demur.engines.remote.client, Completer by demur.engines.hf.complete,
LabelStore by demur.store.answers.label_store.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from demur.core.example import Message
from demur.core.judging.outcome import Outcome
from demur.core.ports import Judge, Progress, no_progress


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeInput:
    """One answer to judge."""

    request: str
    answer: str
    category: str | None = None  # what the answer is held to; None: an ordinary request


@runtime_checkable
class ManyJudge(Judge, Protocol):
    """A judge that is faster with many answers at once, such as one behind a network."""

    def judge_many(
        self, items: Sequence[JudgeInput], progress: Progress = no_progress
    ) -> list[Outcome]:
        """One outcome per item, in order. What failed is unscored with the reason."""
        ...


def judge_rows(
    judge: Judge, items: Sequence[JudgeInput], progress: Progress = no_progress
) -> list[Outcome]:
    """Judge rows that may lack a text: one without a request or an answer is unscored, with that
    reason.
    """
    whole = [item for item in items if item.request.strip() and item.answer.strip()]
    judged = iter(judge_all(judge, whole, progress))
    outcomes = []
    for item in items:
        if item.request.strip() and item.answer.strip():
            outcomes.append(next(judged))
            continue
        reason = f"the row has no {'answer' if item.request.strip() else 'request'}"
        outcomes.append(Outcome(verdict="unscored", reason=reason, judge=judge.version))
    return outcomes


def judge_all(
    judge: Judge, items: Sequence[JudgeInput], progress: Progress = no_progress
) -> list[Outcome]:
    """Judge every item, in order: many at once where the judge can, else one after the other."""
    if isinstance(judge, ManyJudge):
        return judge.judge_many(items, progress)
    outcomes = []
    for n, item in enumerate(items, start=1):
        outcomes.append(judge.judge(item.request, item.answer, item.category))
        progress(n, len(items))
    return outcomes


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatQuestion:
    """One question to a chat model. Temperature 0 always, so that a label can be reproduced."""

    messages: tuple[Message, ...]
    # what the answer must fit, if the endpoint can see to it; None: text
    json_schema: Mapping[str, Any] | None = None
    choices: tuple[str, ...] = ()  # what an endpoint without JSON schemas may be held to instead


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatAnswer:
    """A chat model's answer, with the name of the model and its tokens' log-probabilities."""

    text: str  # the answer alone: thoughts are left out
    model: str  # the name under which the endpoint answered
    # per generated token: its text, and (text, natural-log probability) of the likeliest ones;
    # empty if the endpoint does not give them
    tokens: tuple[tuple[str, tuple[tuple[str, float], ...]], ...] = ()


# how the reason begins where the budget was spent before the question was sent
NOT_ASKED = "not asked"


@dataclass(frozen=True, kw_only=True, slots=True)
class Declined:
    """The endpoint's filter, or the model in a field of its own, declined: an outcome, not a
    failure.
    """

    reason: str  # how it said so, such as "content_filter (HTTP 400)"; never words of the endpoint
    text: str = ""  # of the refusal, if there was one
    model: str | None = None  # the name under which the endpoint answered, if it did


@dataclass(frozen=True, kw_only=True, slots=True)
class NoAnswer:
    """The reason why there is no answer."""

    reason: str


ChatReply = ChatAnswer | Declined | NoAnswer


class ChatModel(Protocol):
    """A chat model that answers many questions at once."""

    @property
    def model(self) -> str:
        """The name that is asked for. An endpoint may answer under another one."""
        ...

    @property
    def asked_as(self) -> str:
        """Model name and sampling settings: whatever may change an answer."""
        ...

    def ask_many(
        self, requests: Sequence[ChatQuestion], on_reply: Callable[[int, ChatReply], None]
    ) -> None:
        """Ask all questions, and call on_reply with each place and reply as soon as it arrives.
        on_reply may raise to stop.

        A decline is a reply like any other: Declined, never tried again, never a text to be judged.
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptPiece:
    """A part of a prompt. Control words of the model's own template work in trusted pieces only."""

    text: str
    trusted: bool = False


class Completer(Protocol):
    """A model that continues text, greedily."""

    @property
    def name(self) -> str:
        """The model's name, with a digest of its weights."""
        ...

    def complete(
        self, prompts: Sequence[Sequence[PromptPiece]], progress: Progress = no_progress
    ) -> list[str | NoAnswer]:
        """The continuation of each prompt, new text only, without special tokens; or the reason why
        there is none.
        """
        ...


class LabelStore(Protocol):
    """A store of labels that were paid for."""

    def get(self, key: str) -> Outcome | None:
        """The outcome under a key, if there is one."""
        ...

    def put(self, key: str, outcome: Outcome, served_by: str) -> None:
        """Keep an outcome, at once."""
        ...

    def served_by(self, judge: str) -> str | None:
        """The model that answered for this version of a judge so far."""
        ...
