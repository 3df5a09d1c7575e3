"""Peaks of answers: the largest value of a monitor's statistic over each, per category.

An answer is stopped exactly where the peak of some category reaches its threshold, so that peaks
say what any threshold would have done. How answers are followed: demur.core.midway.followed.

Shapes: N answers, K categories.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass

import numpy as np

from demur.base.arrays import Doubles, Ints
from demur.base.errors import ScoreError


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class AnswerPeaks:
    """Peaks of N answers. Raises ScoreError where lengths differ."""

    # of the prompts; one stands several times where as many answers to it were drawn
    ids: tuple[str, ...]
    tokens_N: Ints
    peak_NK: Doubles  # as the monitor's statistic has it: natural log, or nats
    # the lowest and the highest that another engine may give, within ENGINE_TOLERANCE
    low_NK: Doubles
    high_NK: Doubles

    def __post_init__(self) -> None:
        shapes = {self.peak_NK.shape, self.low_NK.shape, self.high_NK.shape}
        if len(shapes) > 1 or not len(self.ids) == len(self.tokens_N) == len(self.peak_NK):
            raise ScoreError(
                f"peaks of {len(self.ids)} answers have shapes {sorted(shapes)}",
                "one row an answer, one column a category",
            )

    def select(self, ids: Sequence[str]) -> AnswerPeaks:
        """The answers to these prompts, in this order, the first of several. Raises ScoreError
        naming the first prompt without one.
        """
        answers = self._places(ids)
        return self._take(ids, [answers[i][0] for i in ids])

    def first_of(self, ids: Sequence[str], most_N: Ints) -> tuple[AnswerPeaks, Ints]:
        """The first answers to these prompts, in this order, at most so many to each; and how many
        there are. Raises ScoreError naming the first prompt without one.
        """
        answers = self._places(ids)
        kept = [answers[i][:most] for i, most in zip(ids, most_N.tolist(), strict=True)]
        at = [n for places in kept for n in places]
        several_N = np.array([len(answers[i]) for i in ids], dtype=np.int64)
        return self._take([self.ids[n] for n in at], at), several_N

    def _places(self, ids: Sequence[str]) -> dict[str, list[int]]:
        """The answers to each prompt, by their places."""
        places: dict[str, list[int]] = {}
        for n, i in enumerate(self.ids):
            places.setdefault(i, []).append(n)
        require_answered(ids, places)
        return places

    def _take(self, ids: Sequence[str], places: Sequence[int]) -> AnswerPeaks:
        at = np.array(places, dtype=np.int64)
        return AnswerPeaks(
            ids=tuple(ids),
            tokens_N=self.tokens_N[at],
            peak_NK=self.peak_NK[at],
            low_NK=self.low_NK[at],
            high_NK=self.high_NK[at],
        )


def require_answered(ids: Sequence[str], known: Container[str]) -> None:
    """Raise ScoreError, naming the first, where prompts are not among those with an answer."""
    if missing := [i for i in ids if i not in known]:
        raise ScoreError(
            f"{len(missing)} prompts have no scored answer, first {missing[0]!r}",
            "score them: demur score",
        )
