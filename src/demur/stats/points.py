"""Points for plots, and bootstrap intervals of F1 and of the area under the ROC curve. Nothing here
draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import precision_recall_curve, roc_curve

from demur.base.arrays import Bools, Doubles
from demur.base.errors import DataError, Undefined
from demur.core.rates import Rate
from demur.stats.units import RowUnits


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """ROC: x = false-positive rate, y = true-positive rate. Precision-recall: x = recall, y =
    precision.
    """

    x: float
    y: float
    score: float  # rows at or above this score are refused


@dataclass(frozen=True, kw_only=True, slots=True)
class Bin:
    """One bin of a reliability diagram."""

    low: float  # smallest probability in it
    high: float  # largest
    mean: float  # mean probability
    observed: Rate  # to be refused, among its rows


def roc_points(should_N: Bools, score_N: Doubles) -> tuple[Point, ...]:
    """The ROC curve, strict to lenient, points on straight lines dropped. Raises Undefined if a
    class is missing.
    """
    _check_both(should_N)
    x_P, y_P, score_P = roc_curve(should_N, score_N)
    # scikit-learn opens with (0, 0) at an infinite score
    return _points(x_P[1:], y_P[1:], score_P[1:])


def precision_recall_points(should_N: Bools, score_N: Doubles) -> tuple[Point, ...]:
    """Precision over recall, strict to lenient, points that change nothing dropped. Raises
    Undefined as roc_points.
    """
    _check_both(should_N)
    precision_P, recall_P, score_P = precision_recall_curve(
        should_N, score_N, drop_intermediate=True
    )
    # its last pair, (0, 1), has no score
    return _points(recall_P[-2::-1], precision_P[-2::-1], score_P[::-1])


def reliability_bins(
    should_N: Bools, q_N: Doubles, units: RowUnits, bins: int = 10
) -> tuple[Bin, ...]:
    """At most `bins` bins of nearly equal mass over probabilities q_N. Equal values share a bin, in
    any row order.
    """
    order = np.argsort(q_N, kind="stable")
    # cuts at equal numbers of rows, moved to the first row of their run of ties: bins then do not
    # depend on row order
    sorted_N = q_N[order]
    wanted = np.linspace(0, len(q_N), bins + 1).round().astype(int)[1:-1]
    wanted = wanted[wanted < len(q_N)]
    starts = np.unique(np.searchsorted(sorted_N, sorted_N[wanted], side="left"))
    found = []
    for row_M in np.split(order, starts):
        if len(row_M):
            q_M, everything_M = q_N[row_M], np.ones(len(row_M), dtype=bool)
            observed = units.at(row_M).rate(should_N[row_M], everything_M)
            low, high, mean = (float(f(q_M)) for f in (np.min, np.max, np.mean))
            found.append(Bin(low=low, high=high, mean=mean, observed=observed))
    return tuple(found)


@dataclass(frozen=True, kw_only=True, slots=True)
class Resampling:
    """How to bootstrap."""

    seed: int
    draws: int = 2000
    confidence: float = 0.95


def f1_interval(
    should_N: Bools, refused_N: Bools, units: RowUnits, how: Resampling
) -> tuple[float, float]:
    """Percentile bootstrap interval of F1 at fixed thresholds.

    Whole units are drawn with replacement, as many as there are: rows made from one another do not
    count twice. Honest only for rows on which no threshold was chosen. Draws without any positive
    are left out. Raises Undefined if F1 is undefined on the rows themselves, DataError on unequal
    lengths.
    """
    if not len(should_N) == len(refused_N) == len(units.group_N):
        raise DataError(
            f"{len(should_N)} labels, {len(refused_N)} decisions, {len(units.group_N)} units",
            "one of each a row",
        )
    if not (should_N | refused_N).any():
        raise Undefined(
            "F1 of rows that are neither refused nor to be refused", "report it as undefined"
        )
    unit_N = np.unique(units.group_N, return_inverse=True)[1]
    # F1 = 2 TP / (2 TP + FP + FN): two sums per unit are all that a draw needs
    hits_U = np.bincount(unit_N, weights=units.count_N * (should_N & refused_N))
    size_U = np.bincount(unit_N, weights=units.count_N * (should_N.astype(np.int64) + refused_N))
    drawn = len(hits_U)
    rng = np.random.default_rng(how.seed)
    f1 = []
    for _ in range(how.draws):
        times_U = np.bincount(rng.integers(drawn, size=drawn), minlength=drawn)
        if size := times_U @ size_U:
            f1.append(float(2.0 * (times_U @ hits_U) / size))
    return _percentiles(f1, how)


def auroc_interval(
    should_N: Bools, score_N: Doubles, units: RowUnits, how: Resampling
) -> tuple[float, float]:
    """Percentile bootstrap interval of the area under the ROC curve, units and errors as in
    f1_interval.

    Draws without rows of both kinds are left out. Raises Undefined if a class is missing.
    """
    if not len(should_N) == len(score_N) == len(units.group_N):
        raise DataError(
            f"{len(should_N)} labels, {len(score_N)} scores, {len(units.group_N)} units",
            "one of each a row",
        )
    _check_both(should_N)
    unit_N = np.unique(units.group_N, return_inverse=True)[1]
    level_N = np.unique(score_N, return_inverse=True)[1]
    drawn, levels = int(unit_N.max()) + 1, int(level_N.max()) + 1
    rng = np.random.default_rng(how.seed)
    areas = []
    for _ in range(how.draws):
        # how often each row's unit was drawn; areas are counted per level of score, not per pair
        times_U = np.bincount(rng.integers(drawn, size=drawn), minlength=drawn)
        times_N = times_U[unit_N] * units.count_N
        yes_L = np.bincount(level_N, weights=times_N * should_N, minlength=levels)
        no_L = np.bincount(level_N, weights=times_N * ~should_N, minlength=levels)
        if pairs := yes_L.sum() * no_L.sum():
            areas.append(float(yes_L @ (np.cumsum(no_L) - no_L / 2.0) / pairs))  # ties count half
    return _percentiles(areas, how)


def _percentiles(drawn: Sequence[float], how: Resampling) -> tuple[float, float]:
    tail = (1.0 - how.confidence) / 2.0
    low, high = np.quantile(drawn, [tail, 1.0 - tail])
    return float(low), float(high)


def _check_both(should_N: Bools) -> None:
    if should_N.all() or not should_N.any():
        raise Undefined(
            "a curve needs rows of both kinds, all labels are of one kind", "report it as undefined"
        )


def _points(x_P: Doubles, y_P: Doubles, score_P: Doubles) -> tuple[Point, ...]:
    table = zip(x_P.tolist(), y_P.tolist(), score_P.tolist(), strict=True)
    return tuple(Point(x=x, y=y, score=score) for x, y, score in table)
