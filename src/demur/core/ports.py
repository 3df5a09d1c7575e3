"""Ports: the interfaces that engines, sources and judges implement. Implementations are named in
demur.assembly.wiring.

Source: builtin, jsonl, hub (demur.sources). Trainer: tiny, sft (demur.engines). Scorer and
Generator: hf, fake (demur.engines). Judge: phrases, trained, llm, wildguard (demur.judges).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from demur.base.arrays import Floats
from demur.base.errors import EngineError
from demur.core.example import Example, Message
from demur.core.fingerprint import Fingerprint
from demur.core.judging.outcome import Outcome
from demur.core.midway.monitor import AnswerSampling, Stop
from demur.core.taxonomy import Taxonomy

Prompt = tuple[Message, ...]
NOT_STATED = "not stated"
HARVEST = "harvest.jsonl"  # beside a trained model: what it harvested to turn back from
# (done, total) in the caller's unit; called often, must be cheap
Progress = Callable[[int, int], None]


def no_progress(done: int, total: int) -> None:
    """The progress callback that shows nothing."""


def progress_of_part(progress: Progress, before: int, total: int) -> Progress:
    """Progress of one part, reported as progress of the whole. before: done ahead of this part."""

    def report(done: int, _: int) -> None:
        progress(before + done, total)

    return report


class Source(Protocol):
    """A source of examples."""

    def read(self) -> Iterable[Example]:
        """All rows, in a stable order. Raises DataError naming file and line of a bad row."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """The base model that a training starts from: its name, its licence and its weights."""

    model: str  # as its makers call it
    licence: str  # NOT_STATED where nothing beside the weights names one
    source: str  # the package, file, folder or site that carried it
    digest: str  # sha256 of the GGUF file, or of the folder's weight files

    @property
    def text(self) -> str:
        """The record in one line."""
        return f"{self.model} (licence: {self.licence}), from {self.source}, {self.digest[:19]}"


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedModel:
    """The record of a training, beside the checkpoint itself."""

    fingerprint: Fingerprint
    steps: int
    # logged values, in order: step, loss, control_loss_share, ...
    history: tuple[dict[str, float], ...]
    # per control token: how far its embedding row moved, relative to the median row norm
    row_change: tuple[float, ...]
    # recipe, processes, parameters, ...
    details: dict[str, str | int | float | bool] = field(default_factory=dict)
    origin: Origin | None = None  # None: trained from nothing, or by others


class Trainer(Protocol):
    """Trains a checkpoint that emits a control token first."""

    def train(
        self,
        examples: Sequence[Example],
        taxonomy: Taxonomy,
        folder: Path,
        progress: Progress = no_progress,
    ) -> TrainedModel | None:
        """Train, write a plain Hugging Face checkpoint to `folder`/model, resume from
        `folder`/checkpoints if there. `folder`/HARVEST lists what was harvested to turn back from.

        None on every process but the first.
        """
        ...


class Scorer(Protocol):
    """Reads control-token scores off a model."""

    @property
    def fingerprint(self) -> Fingerprint:
        """The model behind the scores."""
        ...

    def logp(self, prompts: Sequence[Prompt], progress: Progress = no_progress) -> Floats:
        """(N, C) natural-log probabilities at the first answer position, in the order of
        `prompts`.
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """One generated text: without its control token, and whether it ended by itself."""

    text: str
    finished: bool
    tokens: int  # generated after the control token
    # Where a policy's monitor stopped the answer: the text is the refusal that followed, and what
    # had been written is dropped.
    stop: Stop | None = None

    @property
    def shown(self) -> str:
        """The text for people, with " ..." where it was cut off."""
        return self.text if self.finished else f"{self.text} ..."


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class WatchedAnswer:
    """An answer with the position score of each of its tokens."""

    answer: Answer
    # (tokens, C) natural log, as a score's: of the position that each token was written at
    logp_TC: Floats


class AnswerWatcher(Protocol):
    """Writes answers after [respond] and keeps the score of every position: see
    demur.core.midway.monitor.
    """

    @property
    def fingerprint(self) -> Fingerprint:
        """The model behind the answers."""
        ...

    def watched(
        self,
        prompts: Sequence[Prompt],
        sampling: AnswerSampling,
        prefixes: Sequence[str] = (),
        progress: Progress = no_progress,
    ) -> list[WatchedAnswer]:
        """One answer per prompt, forced to begin with [respond], without a policy's stop. Sampled
        answers to equal prompts of one call are draws of their own.

        prefixes: beginnings of the answers, one per prompt, written by somebody else; () for none.
        They are no part of the answer, and have no position scores. Raises PromptTooLong.
        """
        ...


def watcher_of(engine: object) -> AnswerWatcher:
    """The engine as one that follows answers. Raises EngineError where it does not."""
    watcher: Any = engine
    if not callable(getattr(watcher, "watched", None)):
        raise EngineError(
            f"{type(engine).__name__} does not follow the answers that it writes",
            "use an engine that does (docs/midway.md), or do without followed answers",
        )
    followed: AnswerWatcher = watcher
    return followed


class Generator(Protocol):
    """Writes answers that follow a forced control token."""

    @property
    def fingerprint(self) -> Fingerprint:
        """The model behind the answers."""
        ...

    def branches(
        self,
        prompts: Sequence[Prompt],
        columns: Sequence[Sequence[int]],
        progress: Progress = no_progress,
    ) -> list[dict[int, Answer]]:
        """For each prompt the answer after each asked control token (a score column), from one
        prefill per prompt.
        """
        ...


class Judge(Protocol):
    """Judges an answer: declined, partly or not."""

    @property
    def version(self) -> str:
        """Name and version, stored with every outcome."""
        ...

    def judge(self, request: str, answer: str, category: str | None) -> Outcome:
        """One verdict. Never raises on odd text: what cannot be judged is "unscored" with a
        reason.
        """
        ...
