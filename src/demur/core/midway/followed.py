"""Followed answers: what a monitor would have done to each, at any threshold.

1. An answer's statistic rises to a new maximum at a few positions: its records. A threshold is
   first reached at a record, so that records say for any threshold where the answer is stopped.
2. The last record is the peak. An answer is stopped exactly where the peak of some category
   reaches its threshold.
3. Engines differ by rounding (demur.core.score.ENGINE_TOLERANCE), so each peak has the lowest and
   the highest value that another engine may give to the same answer.
4. An answer of zero tokens has no record: it is never stopped, and counts as an answer.

Shapes: N answers, T positions of one, K categories, C = 1 + K control tokens (0 = respond).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from demur.base.arrays import Bools, Doubles, Floats
from demur.base.errors import ScoreError
from demur.core.midway.monitor import (
    AnswerSampling,
    Monitor,
    Statistic,
    Stop,
    excess,
    statistics,
)
from demur.core.midway.peaks import AnswerPeaks
from demur.core.score import ENGINE_TOLERANCE, check_scores
from demur.core.threshold import NEVER


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerScoring:
    """How answers are written and followed, for thresholds to be chosen on them.

    Raises PolicyError on what no monitor can have.
    """

    answers: AnswerSampling
    statistic: Statistic = "maximum"
    reference: float = 0.01  # "cusum" only: see Monitor

    def __post_init__(self) -> None:
        self.monitor((1.0,))

    def monitor(self, thresholds: Sequence[float], held_back: int = 0) -> Monitor:
        """The monitor with these thresholds, one per category."""
        return Monitor(
            thresholds=tuple(thresholds),
            answers=self.answers,
            statistic=self.statistic,
            reference=self.reference,
            held_back=held_back,
        )

    def follows(self, monitor: Monitor) -> bool:
        """Whether a monitor has this statistic, and was calibrated on answers written like this."""
        reference = monitor.statistic == "maximum" or monitor.reference == self.reference
        alike = monitor.answers == self.answers and monitor.statistic == self.statistic
        return alike and reference


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """A position where the statistic of one category is higher than at all before it."""

    position: int  # tokens of the answer ahead of it
    value: float  # as the monitor's statistic has it: natural log, or nats


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredAnswer:
    """The statistic of each category over one answer, by its records. K entries each."""

    id: str  # of the prompt
    tokens: int
    finished: bool  # whether it ended by itself
    records: tuple[tuple[Record, ...], ...]  # ascending
    low: tuple[float, ...]  # the lowest and the highest peak that another engine may give
    high: tuple[float, ...]

    def peak(self, k: int, statistic: Statistic) -> float:
        """The largest statistic of one category; without a token the least one there is."""
        return self.records[k][-1].value if self.records[k] else least(statistic)

    def stop(self, monitor: Monitor) -> Stop | None:
        """Where a monitor would have stopped it, as first_stop says of the whole trace."""
        found: list[tuple[int, float, int]] = []
        for k, records in enumerate(self.records):
            for record in records:
                value_K = np.full(len(self.records), -np.inf)
                value_K[k] = record.value
                above = float(excess(monitor, value_K)[k])
                if above >= 0.0:
                    found.append((record.position, -above, k))
                    break
        if not found:
            return None
        # At one position the category farthest above its threshold is emitted.
        position, _, k = min(found)
        return Stop(column=k + 1, position=position)


def least(statistic: Statistic) -> float:
    """The least value of a statistic: that of an answer without a token."""
    return -np.inf if statistic == "maximum" else 0.0


def scored_answer(
    scoring: AnswerScoring, prompt: str, logp_TC: Floats, *, finished: bool
) -> ScoredAnswer:
    """Follow one answer. prompt: its id. logp_TC: the score of each of its positions, natural log.

    Raises ScoreError on anything but log-probabilities.
    """
    categories = logp_TC.shape[1] - 1
    # Thresholds play no part in the statistic.
    monitor = scoring.monitor((1.0,) * categories)
    if len(logp_TC):
        check_scores(logp_TC)
    value_TK = statistics(monitor, logp_TC)
    start = least(scoring.statistic)
    low, high = (
        statistics(monitor, np.minimum(logp_TC + np.float32(by), np.float32(0.0)))
        for by in (-ENGINE_TOLERANCE, ENGINE_TOLERANCE)
    )
    return ScoredAnswer(
        id=prompt,
        tokens=len(logp_TC),
        finished=finished,
        records=tuple(_records(value_TK[:, k], start) for k in range(categories)),
        low=tuple(low.max(axis=0, initial=start).tolist()),
        high=tuple(high.max(axis=0, initial=start).tolist()),
    )


def peaks_of(
    scoring: AnswerScoring, answers: Sequence[ScoredAnswer], categories: int
) -> AnswerPeaks:
    """The peaks of several answers, in their order. Raises ScoreError on an answer that is longer
    than its sampling says.
    """
    most = scoring.answers.most_tokens
    if long := next((a for a in answers if a.tokens > most), None):
        raise ScoreError(
            f"the answer to {long.id!r} has {long.tokens} tokens, of at most {most}",
            "score the answers again: the engine does not keep to their length",
        )
    shape = (len(answers), categories)
    peak = [[a.peak(k, scoring.statistic) for k in range(categories)] for a in answers]
    return AnswerPeaks(
        ids=tuple(a.id for a in answers),
        tokens_N=np.array([a.tokens for a in answers], dtype=np.int64),
        peak_NK=np.array(peak, dtype=np.float64).reshape(shape),
        low_NK=np.array([a.low for a in answers], dtype=np.float64).reshape(shape),
        high_NK=np.array([a.high for a in answers], dtype=np.float64).reshape(shape),
    )


def stopped(monitor: Monitor, peaks: AnswerPeaks) -> Bools:
    """Which answers a monitor would have stopped, shape (N,)."""
    above_NK = excess(monitor, peaks.peak_NK)
    return np.asarray((above_NK >= 0.0).any(axis=1) & (peaks.tokens_N > 0), dtype=bool)


def stopping(monitor: Monitor) -> tuple[int, ...]:
    """The categories that may stop an answer, by their place in the taxonomy."""
    return tuple(k for k, threshold in enumerate(monitor.thresholds) if threshold != NEVER)


def _records(value_T: Doubles, start: float) -> tuple[Record, ...]:
    """The positions of one category's new maxima, the first position always among them."""
    if not len(value_T):
        return ()
    before_T = np.concatenate([[start], np.maximum.accumulate(value_T)[:-1]])
    at = np.flatnonzero((value_T > before_T) | (np.arange(len(value_T)) == 0))
    return tuple(Record(position=int(t), value=float(value_T[t])) for t in at)
