"""The monitor: the part of a policy that may still stop an answer after the first position.

1. Every position of an answer has a position score: the natural-log probabilities of the control
   tokens there, read off the logits that the next token is sampled from. It costs no forward pass.
2. A statistic per category follows these scores from position to position: the probability itself
   ("maximum"), or a sum of log-odds that never falls below zero ("cusum": Page 1954). One position
   adds at most the log-odds of MOST_CERTAIN: beyond it, rounding that engines differ by would move
   a sum as far as any evidence does, and one word could stop an answer.
3. The answer is stopped at the first position where a category's statistic reaches its threshold.
   Ties stop. Of several categories the one farthest above its threshold is emitted.
4. A position counts once the model writes a token there. Where the model ends its answer instead,
   nothing is left to stop.

`MonitorState` is the only code that stops an answer, one position at a time in every engine;
`peaks` says offline what any threshold would have done. Shapes: T positions of one answer, K
categories, C = 1 + K control tokens (column 0 = respond).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from demur.base.arrays import Doubles, Floats, Ints
from demur.base.errors import PolicyError
from demur.core.score import check_scores
from demur.core.threshold import NEVER, log_odds, margin

Statistic = Literal["maximum", "cusum"]

STATISTICS: tuple[Statistic, ...] = ("maximum", "cusum")

MOST_CERTAIN = 0.99  # a probability: "cusum" takes no position for more certain than this


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerSampling:
    """How answers are written that a monitor watches: a promise holds for these alone.

    Raises PolicyError on values that no sampler takes.
    """

    most_tokens: int  # after the control token
    temperature: float = 1.0  # 0: greedy
    top_p: float = 1.0

    def __post_init__(self) -> None:
        usual = self.most_tokens >= 1 and self.temperature >= 0.0 and 0.0 < self.top_p <= 1.0
        if not usual or not math.isfinite(self.temperature):
            raise PolicyError(
                f"monitor: answers of most_tokens {self.most_tokens}, temperature "
                f"{self.temperature}, top_p {self.top_p}",
                "most_tokens is at least 1, temperature at least 0, top_p in (0, 1]",
            )

    def covers(self, other: AnswerSampling) -> bool:
        """Whether answers written as `other` says are among these: no longer, sampled alike."""
        # Greedy decoding draws nothing: the nucleus does not matter.
        alike = self.temperature == other.temperature and (
            self.temperature == 0.0 or self.top_p == other.top_p
        )
        return alike and other.most_tokens <= self.most_tokens

    @property
    def text(self) -> str:
        """The record in words."""
        how = (
            "greedy"
            if self.temperature == 0.0
            else f"temperature {self.temperature:g}, top_p {self.top_p:g}"
        )
        return f"at most {self.most_tokens} tokens, {how}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Monitor:
    """Statistic, thresholds and stream of a monitor. Raises PolicyError on what is no monitor."""

    # One per category, in the order of the taxonomy; NEVER: this category stops nothing. "maximum":
    # a probability in [0, 1]. "cusum": nats above 0.
    thresholds: tuple[float, ...]
    answers: AnswerSampling  # those that it was calibrated on
    statistic: Statistic = "maximum"
    # "cusum" only: the probability at which the statistic neither rises nor falls
    reference: float = 0.01
    held_back: int = 24  # newest tokens of an answer that a stream withholds

    def __post_init__(self) -> None:
        if self.statistic not in STATISTICS:
            raise PolicyError(
                f"monitor: unknown statistic {self.statistic!r}",
                f"known: {', '.join(STATISTICS)}",
            )
        if not 0.0 < self.reference < MOST_CERTAIN:
            raise PolicyError(
                f"monitor: reference {self.reference} is not in (0, {MOST_CERTAIN})",
                "it is a probability of a refusal token that is neither usual nor alarming",
            )
        for threshold in self.thresholds:
            self._check_threshold(threshold)
        if all(map(math.isinf, self.thresholds)):
            raise PolicyError(
                "monitor: every category's threshold is never", "leave the monitor out"
            )
        if not 0 <= self.held_back < self.answers.most_tokens:
            raise PolicyError(
                f"monitor: {self.held_back} tokens are held back of answers of at most "
                f"{self.answers.most_tokens}",
                "hold back fewer tokens than an answer may have; 0 holds back nothing",
            )

    def require_categories(self, count: int) -> None:
        """Raise PolicyError unless there is a threshold for each of so many categories."""
        if len(self.thresholds) != count:
            raise PolicyError(
                f"monitor: {len(self.thresholds)} thresholds for {count} categories",
                "give one per category of the taxonomy, in its order",
            )

    def _check_threshold(self, threshold: float) -> None:
        if math.isinf(threshold) and threshold > 0:
            return
        # A cusum starts at 0, so that a threshold of 0 would stop every answer at once.
        good = 0.0 <= threshold <= 1.0 if self.statistic == "maximum" else threshold > 0.0
        if not good:
            expected = "in [0, 1]" if self.statistic == "maximum" else "above 0"
            raise PolicyError(
                f"monitor: threshold {threshold} of statistic {self.statistic!r} is not {expected}",
                'or "never", for a category that stops nothing',
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Stop:
    """Where an answer was stopped, and with which category."""

    column: int  # of the refusal token, as a score column; never 0
    position: int  # tokens of the answer ahead of the one that was not written; from 0


class MonitorState:
    """A monitor on one answer that is being written."""

    __slots__ = ("_monitor", "_position", "_statistic_K")

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor
        self._position = 0
        self._statistic_K = np.zeros(len(monitor.thresholds), dtype=np.float64)

    def push(self, logp_C: Floats) -> Stop | None:
        """Count the position score of the next token, and say whether the answer stops before it.

        Call it only where the model writes a token, not where it ends its answer. Raises ScoreError
        on anything but log-probabilities: an answer that cannot be watched is not written on.
        """
        check_scores(logp_C[None, :])
        position, self._position = self._position, self._position + 1
        self._statistic_K = advance(self._monitor, self._statistic_K, logp_C[1:])
        above_K = excess(self._monitor, self._statistic_K)
        column = int(above_K.argmax())
        return Stop(column=column + 1, position=position) if above_K[column] >= 0.0 else None


def advance(monitor: Monitor, before_K: Doubles, logp_K: Floats) -> Doubles:
    """The statistic of each category after one more position, (K,). before_K: ahead of it."""
    logq_K = logp_K.astype(np.float64)
    if monitor.statistic == "maximum":
        return logq_K  # the threshold is compared at every position: the maximum reaches it first
    # Page's recursion
    reference = math.log(monitor.reference) - math.log1p(-monitor.reference)
    evidence_K = log_odds(np.minimum(logq_K, math.log(MOST_CERTAIN))) - reference
    return np.maximum(0.0, before_K + evidence_K)


def excess(monitor: Monitor, statistic_K: Doubles) -> Doubles:
    """How far each category's statistic is above its threshold, >= 0 where it stops; -inf: never.

    "maximum": log-odds. "cusum": nats. The last axis is the categories.
    """
    threshold_K = np.array(monitor.thresholds, dtype=np.float64)
    if monitor.statistic == "maximum":
        with np.errstate(divide="ignore"):
            log_threshold_K = np.log(threshold_K)
        above_K = margin(statistic_K, np.broadcast_to(log_threshold_K, statistic_K.shape))
    else:
        with np.errstate(invalid="ignore"):
            above_K = np.where(statistic_K >= threshold_K, 0.0, -np.inf) + np.nan_to_num(
                statistic_K - threshold_K, nan=0.0, posinf=np.finfo(np.float64).max
            )
    return np.where(threshold_K == NEVER, -np.inf, above_K)


def statistics(monitor: Monitor, logp_TC: Floats) -> Doubles:
    """The statistic of each category at every position of an answer, (T, K)."""
    value_TK = np.zeros((len(logp_TC), logp_TC.shape[1] - 1), dtype=np.float64)
    before_K = np.zeros(value_TK.shape[1], dtype=np.float64)
    for t, logp_C in enumerate(logp_TC):
        before_K = value_TK[t] = advance(monitor, before_K, logp_C[1:])
    return value_TK


def peaks(monitor: Monitor, logp_TC: Floats) -> tuple[Doubles, Ints]:
    """Each category's largest statistic over an answer, and its first position; (K,) both.

    An answer is stopped exactly where the peak of some category reaches its threshold. An answer
    without a token has the least peaks there are, -inf or 0, at position 0.
    """
    value_TK = statistics(monitor, logp_TC)
    if not len(value_TK):
        least = -np.inf if monitor.statistic == "maximum" else 0.0
        size = value_TK.shape[1]
        return np.full(size, least), np.zeros(size, dtype=np.int64)
    return value_TK.max(axis=0), value_TK.argmax(axis=0).astype(np.int64)


def first_stop(monitor: Monitor, logp_TC: Floats) -> Stop | None:
    """Where a monitor would have stopped an answer of these position scores; None: nowhere."""
    state = MonitorState(monitor)
    return next((stop for logp_C in logp_TC if (stop := state.push(logp_C)) is not None), None)
