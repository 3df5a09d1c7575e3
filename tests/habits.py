"""Models that refuse always, never, or whatever their token says: every evaluator must tell them
apart.

Implements demur.core.ports.Scorer and Generator. Token and text can be set apart, which makes leaks
of a known size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from demur.base.arrays import Floats
from demur.base.errors import EngineError
from demur.core.fingerprint import Fingerprint
from demur.core.ports import Answer, Progress, Prompt, no_progress
from demur.engines.fake.engine import FakeEngine

Habit = Literal["always", "never", "as told"]
HABITS: tuple[Habit, ...] = ("always", "never", "as told")

# probability of the token that a subject always emits, before what lies outside the control tokens
SURE = 0.99


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """A fake model with a habit in its tokens and one in its texts. Raises EngineError on a habit
    that is none.
    """

    engine: FakeEngine
    tokens: Habit = "as told"  # "as told": the engine's own scores
    texts: Habit = "as told"  # "as told": the text that the forced token asks for

    def __post_init__(self) -> None:
        for habit in (self.tokens, self.texts):
            if habit not in HABITS:
                raise EngineError(f"unknown habit {habit!r}", f"known: {', '.join(HABITS)}")

    @property
    def fingerprint(self) -> Fingerprint:
        """The engine's, with the habits in its model digest."""
        made = self.engine.fingerprint
        return replace(
            made, model_digest=f"{made.model_digest} tokens {self.tokens}, texts {self.texts}"
        )

    def logp(self, prompts: Sequence[Prompt], progress: Progress = no_progress) -> Floats:
        """The engine's scores with the mass moved to refusing, or to respond; categories keep their
        order.
        """
        logp_NC = self.engine.logp(prompts, progress)
        if self.tokens == "as told":
            return logp_NC
        p_NC = np.exp(logp_NC.astype(np.float64))
        refuses = SURE if self.tokens == "always" else 1.0 - SURE
        whole_N, refusing_N = p_NC.sum(axis=1), p_NC[:, 1:].sum(axis=1)
        p_NC[:, 1:] *= (refuses * whole_N / refusing_N)[:, None]
        p_NC[:, 0] = (1.0 - refuses) * whole_N
        return np.asarray(np.log(p_NC), dtype=np.float32)

    def branches(
        self,
        prompts: Sequence[Prompt],
        columns: Sequence[Sequence[int]],
        progress: Progress = no_progress,
    ) -> list[dict[int, Answer]]:
        """The engine's texts; with a habit, those that follow another token than the one asked
        for.
        """
        meant = [
            [(column, self._follows(prompt, column)) for column in cs]
            for prompt, cs in zip(prompts, columns, strict=True)
        ]
        made = self.engine.branches(
            prompts, [sorted({to for _, to in pairs}) for pairs in meant], progress
        )
        return [
            {column: texts[to] for column, to in pairs}
            for pairs, texts in zip(meant, made, strict=True)
        ]

    def _follows(self, prompt: Prompt, column: int) -> int:
        """The control token whose text is written after this one."""
        if self.texts == "never":
            return 0
        if self.texts == "always" and column == 0:
            return max(self.engine.truth(prompt), 1)
        return column


def always_refuses(engine: FakeEngine) -> Subject:
    """Refuses everything, in token and text."""
    return Subject(engine=engine, tokens="always", texts="always")


def never_refuses(engine: FakeEngine) -> Subject:
    """Answers everything, in token and text."""
    return Subject(engine=engine, tokens="never", texts="never")


def deaf(engine: FakeEngine) -> Subject:
    """Good tokens, and texts that refuse whatever the token says: the token-text gap at its
    widest.
    """
    return Subject(engine=engine, texts="always")
