"""What one threshold of a monitor is compared with: a natural-log probability an answer, as
demur.core.decision.compared_scores gives one a prompt.

1. The categories that may stop an answer share one threshold, so an answer is decided by its
   largest peak among theirs.
2. The statistic "maximum" is a log-probability. "cusum", in nats, is brought between -1 and 0 by an
   increasing map, and a threshold that was found is brought back.
3. An answer that no threshold stops, because it has no token, is at -inf.

Shapes: N answers, K categories.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from demur.base.arrays import Doubles, Ints
from demur.core.midway.followed import stopping
from demur.core.midway.monitor import Monitor, Statistic
from demur.core.midway.peaks import AnswerPeaks
from demur.core.threshold import NEVER

_LEAST_CUSUM = 1e-9  # nats: a threshold is above 0, where every answer begins


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ComparedPeaks:
    """The compared number of N answers: float32 values, natural log."""

    logq_N: Doubles
    low_N: Doubles  # the lowest and the highest that another engine may give
    high_N: Doubles
    heaviest_N: Ints  # column of the category with the largest peak; 0 where nothing is written


def compared_peaks(monitor: Monitor | None, peaks: AnswerPeaks) -> ComparedPeaks:
    """What the threshold is compared with of each answer. Without a monitor nothing stops an
    answer: its numbers are then those of all categories.
    """
    every = range(peaks.peak_NK.shape[1])
    columns = np.array(list(every) if monitor is None else stopping(monitor), dtype=np.int64)
    statistic: Statistic = "maximum" if monitor is None else monitor.statistic
    written_N = peaks.tokens_N > 0
    found_N, low_N, high_N = (
        np.where(written_N, _as_log(statistic, value_NK[:, columns].max(axis=1)), -np.inf)
        for value_NK in (peaks.peak_NK, peaks.low_NK, peaks.high_NK)
    )
    heaviest_N = columns[peaks.peak_NK[:, columns].argmax(axis=1)] + 1
    return ComparedPeaks(
        logq_N=found_N,
        low_N=low_N,
        high_N=high_N,
        heaviest_N=np.where(written_N, heaviest_N, 0).astype(np.int64),
    )


def with_thresholds(monitor: Monitor, by_category: Sequence[float]) -> Monitor:
    """The monitor with thresholds that were found for compared numbers: a probability per category,
    or inf.
    """
    found = tuple(_of_log(monitor.statistic, threshold) for threshold in by_category)
    return replace(monitor, thresholds=found)


def _as_log(statistic: Statistic, value_N: Doubles) -> Doubles:
    """Values of a statistic as natural-log probabilities; -inf where no threshold is reached."""
    if statistic == "maximum":
        return value_N.astype(np.float32).astype(np.float64)
    logq_N = (-1.0 / (1.0 + value_N)).astype(np.float32).astype(np.float64)
    return np.where(value_N > 0.0, logq_N, -np.inf)


def _of_log(statistic: Statistic, threshold: float) -> float:
    """A threshold of the statistic from the probability that one of _as_log's values has."""
    if threshold == NEVER or statistic == "maximum":
        return threshold
    logq = math.log(threshold) if threshold > 0.0 else -math.inf
    return max(-1.0 / logq - 1.0, _LEAST_CUSUM) if logq < 0.0 else NEVER
