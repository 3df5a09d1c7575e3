"""Points for plots, and intervals of F1 and of the area under the ROC curve. Nothing here
draws.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.stats import t as student
from sklearn.metrics import precision_recall_curve, roc_curve

from demur.base.arrays import Bools, Doubles
from demur.base.errors import DataError, Undefined
from demur.core.rates import Rate, real_interval
from demur.stats.units import RowUnits

# units with a row that is ranked or decided wrong, below which the design effect is not known
FEW_UNITS = 20


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
    should_N: Bools, refused_N: Bools, units: RowUnits, confidence: float = 0.95
) -> tuple[float, float]:
    """Interval of F1 at fixed thresholds, which counts units.

    F1 = 2 J / (1 + J) with J the share of hits among the rows that are refused or to be refused: a
    rate. How many such rows a unit has goes with its hits, so beside the interval of the rate
    stands that of the ratio of sums over units, at its effective number of rows; the wider counts.
    Honest only for rows on which no threshold was chosen. Raises Undefined if F1 is undefined on
    the rows themselves, DataError on unequal lengths.
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
    hit_N, among_N = should_N & refused_N, should_N | refused_N
    rate = units.rate(hit_N, among_N)
    of_ratio = real_interval(rate.value, _effective_rows(hit_N, among_N, units), confidence)
    of_rate = rate.interval(confidence)
    low, high = min(of_rate[0], of_ratio[0]), max(of_rate[1], of_ratio[1])
    return 2.0 * low / (1.0 + low), 2.0 * high / (1.0 + high)


def _effective_rows(hit_N: Bools, among_N: Bools, units: RowUnits) -> float:
    """The number of independent requests that would tell the share of hits as surely as the sums
    over units do, linearised; the number of units where few of them have a miss or a hit.
    """
    unit_M = np.unique(units.group_N[among_N], return_inverse=True)[1]
    count_M, hit_M = units.count_N[among_N].astype(np.float64), hit_N[among_N]
    value = float(count_M @ hit_M / count_M.sum())
    error_U = np.bincount(unit_M, weights=count_M * (hit_M - value)) / count_M.sum()
    pieces = len(error_U)
    if min(len(np.unique(unit_M[hit_M == sort])) for sort in (True, False)) < FEW_UNITS:
        return float(pieces)
    variance = float((error_U**2).sum()) * pieces / (pieces - 1)
    return min(value * (1.0 - value) / variance, float(count_M.sum()))


def auroc_interval(
    should_N: Bools, score_N: Doubles, units: RowUnits, confidence: float = 0.95
) -> tuple[float, float]:
    """Interval of the area under the ROC curve, which counts units.

    Score interval of Newcombe (2006, method 5), which holds near 1 too, on effective numbers of
    rows: divided by the design effect, the variance over units (Obuchowski 1997, DeLong's
    components summed by unit) over that of independent requests; by the size of units where fewer
    than FEW_UNITS hold a row that is ranked wrong, because the effect is then not known. Student's
    t. Raises Undefined if a class is missing, DataError on unequal lengths.
    """
    if not len(should_N) == len(score_N) == len(units.group_N):
        raise DataError(
            f"{len(should_N)} labels, {len(score_N)} scores, {len(units.group_N)} units",
            "one of each a row",
        )
    _check_both(should_N)
    count_N = units.count_N.astype(np.float64)
    of_N = np.where(should_N, count_N[should_N].sum(), count_N[~should_N].sum())
    right_N = _ranked_right(should_N, score_N, count_N)
    area = float((count_N * right_N)[should_N].sum() / count_N[should_N].sum())
    unit_N = np.unique(units.group_N, return_inverse=True)[1]
    # (units with a row to be refused, units with another): the pieces of evidence of each class
    pieces = [len(np.unique(unit_N[own_N])) for own_N in (should_N, ~should_N)]
    sizes = [float(count_N[own_N].sum()) for own_N in (should_N, ~should_N)]
    # what each row adds to the error of the area, then each unit
    error_U = np.bincount(unit_N, weights=count_N * (right_N - area) / of_N)
    least = min(pieces)
    by_units = float((error_U**2).sum()) * least / max(least - 1, 1)
    alone = _area_variance(area, sizes[0], sizes[1])
    effect = by_units / alone if alone > 0.0 else 1.0
    if len(np.unique(unit_N[right_N < 1.0])) < FEW_UNITS:
        effect = max(effect, *(of / n for of, n in zip(sizes, pieces, strict=True)))
    # an area of fewer than two rows of a class has no variance
    yes, no = (max(of / max(effect, 1.0), 1.5) for of in sizes)
    far = float(student.ppf(0.5 + confidence / 2, max(least - 1, 1)))

    def beyond(true: float) -> float:
        return abs(area - true) - far * math.sqrt(_area_variance(true, yes, no))

    edge = 1e-9  # at the area itself, and at 0 and 1, the variance may be 0
    low = brentq(beyond, edge, area - edge) if area > 2 * edge else 0.0
    high = brentq(beyond, area + edge, 1.0 - edge) if area < 1.0 - 2 * edge else 1.0
    return float(low), float(high)


def _ranked_right(should_N: Bools, score_N: Doubles, count_N: Doubles) -> Doubles:
    """The share of the other class's requests that each row is ranked right against; ties count
    half.
    """
    level_N = np.unique(score_N, return_inverse=True)[1]
    levels = int(level_N.max()) + 1
    yes_L = np.bincount(level_N, weights=count_N * should_N, minlength=levels)
    no_L = np.bincount(level_N, weights=count_N * ~should_N, minlength=levels)
    below_L = (np.cumsum(no_L) - no_L / 2.0) / no_L.sum()
    above_L = 1.0 - (np.cumsum(yes_L) - yes_L / 2.0) / yes_L.sum()
    return np.asarray(np.where(should_N, below_L[level_N], above_L[level_N]))


def _area_variance(area: float, yes: float, no: float) -> float:
    """Variance of the area from so many independent rows of each class (Hanley and McNeil 1982, as
    Newcombe 2006 has it).
    """
    pairs = (yes + no) / 2.0 - 1.0
    spread = 1.0 + pairs * ((1.0 - area) / (2.0 - area) + area / (1.0 + area))
    return area * (1.0 - area) / (yes * no) * spread


def _check_both(should_N: Bools) -> None:
    if should_N.all() or not should_N.any():
        raise Undefined(
            "a curve needs rows of both kinds, all labels are of one kind", "report it as undefined"
        )


def _points(x_P: Doubles, y_P: Doubles, score_P: Doubles) -> tuple[Point, ...]:
    table = zip(x_P.tolist(), y_P.tolist(), score_P.tolist(), strict=True)
    return tuple(Point(x=x, y=y, score=score) for x, y, score in table)
