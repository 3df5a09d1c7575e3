"""Comparing orders: rank correlations of measurements, and which calibrators are shown to be better
than which.

1. Models of one kind of data are one piece of evidence, however many seeds were trained: the luck
   of their common rows is common to all of them. Their errors are averaged.
2. Two calibrators are compared by an exact sign test over kinds: if neither were better more often
   than the other over kinds of data, each kind would be a fair coin (ties are left out).
3. All pairs are tested, each at its share of 5 % (Holm 1979), so that a wrong claim about any pair
   has a probability of 5 % at most, whatever the distribution of the errors, if the kinds were
   drawn independently.

Shapes: S series over X cases, L calibrators, K kinds, P pairs of calibrators.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
from scipy.stats import binom, kendalltau, rankdata, spearmanr

from demur.base.arrays import Bools, Doubles, Ints
from demur.base.errors import DataError
from demur.stats.measure import Statistic

Correlation = Literal["kendall", "spearman"]

FEWEST_CASES = 3  # two cases always correlate perfectly
RISK = 0.05  # of telling calibrators apart that do not differ


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibratorRank:
    """A calibrator among the others."""

    calibrator: str
    mean_rank: float  # over kinds; 1 is best; tied values share the mean of their ranks
    behind: tuple[str, ...]  # the calibrators that are shown to be better
    best_in: int  # kinds in which none was better

    @property
    def place(self) -> int:
        """1 where none is shown to be better; equal places are not told apart."""
        return 1 + len(self.behind)


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranking:
    """Calibrators in the order of their mean rank, and what is shown of their differences."""

    standings: tuple[CalibratorRank, ...]  # empty with one kind of data: it ranks nothing
    cases: int  # in which every calibrator was measured
    kinds: int  # of data among these cases
    needed: int  # kinds that tell two calibrators apart if all of them agree


def correlations(
    series_SX: Sequence[Doubles], kind: Correlation = "kendall"
) -> tuple[tuple[Statistic, ...], ...]:
    """Rank correlation of every two series, shape (S, S)."""
    return tuple(tuple(correlation(a, b, kind) for b in series_SX) for a in series_SX)


def correlation(a_X: Doubles, b_X: Doubles, kind: Correlation = "kendall") -> Statistic:
    """Kendall's tau-b or Spearman's rho. Cases with NaN do not count; undefined under 3 cases or
    without variation.
    """
    both_X = np.isfinite(a_X) & np.isfinite(b_X)
    a_X, b_X = a_X[both_X], b_X[both_X]
    if len(a_X) < FEWEST_CASES:
        return Statistic(number=None, why=f"{len(a_X)} cases, at least {FEWEST_CASES} needed")
    if (a_X == a_X[0]).all() or (b_X == b_X[0]).all():
        return Statistic(number=None, why="one of the two is the same in every case")
    found = kendalltau(a_X, b_X) if kind == "kendall" else spearmanr(a_X, b_X)
    return Statistic(number=float(found.statistic))


def rank(calibrators: Sequence[str], error_XL: Doubles, kind_X: Ints) -> Ranking:
    """Rank calibrators by their errors in X cases (models, subsets), each of one kind of data.
    Cases with a NaN are left out.

    Raises DataError if shapes do not fit or no case has every calibrator measured.
    """
    if error_XL.ndim != 2 or error_XL.shape != (len(kind_X), len(calibrators)):
        raise DataError(
            f"errors of shape {error_XL.shape} for {len(calibrators)} calibrators and "
            f"{len(kind_X)} cases",
            "expected (cases, calibrators)",
        )
    whole_X = np.isfinite(error_XL).all(axis=1)
    if not whole_X.any():
        raise DataError(
            "in no case is every calibrator measured", "measure all calibrators on the same models"
        )
    error_KL = _kind_means(error_XL[whole_X], kind_X[whole_X])
    kinds, size = error_KL.shape
    standings: tuple[CalibratorRank, ...] = ()
    if kinds > 1:
        # rank 1 for the smallest error of each kind, ties share the mean of their ranks
        mean_L = rankdata(error_KL, axis=1).mean(axis=0)
        best_L = (error_KL == error_KL.min(axis=1, keepdims=True)).sum(axis=0)
        better_LL = _shown_better(error_KL)
        standings = tuple(
            CalibratorRank(
                calibrator=calibrators[at],
                mean_rank=float(mean_L[at]),
                behind=tuple(calibrators[b] for b in np.flatnonzero(better_LL[:, at]).tolist()),
                best_in=int(best_L[at]),
            )
            for at in np.argsort(mean_L, kind="stable").tolist()
        )
    return Ranking(
        standings=standings, cases=int(whole_X.sum()), kinds=kinds, needed=_kinds_needed(size)
    )


def _kind_means(error_XL: Doubles, kind_X: Ints) -> Doubles:
    """The mean error of each calibrator over the cases of each kind, shape (K, L)."""
    _, at_X = np.unique(kind_X, return_inverse=True)
    sum_KL = np.zeros((at_X.max() + 1, error_XL.shape[1]))
    np.add.at(sum_KL, at_X, error_XL)
    return sum_KL / np.bincount(at_X)[:, None]


def _shown_better(error_KL: Doubles) -> Bools:
    """Whether calibrator a (row) is shown to have smaller errors than b (column), shape (L, L)."""
    size = error_KL.shape[1]
    better_LL = np.zeros((size, size), dtype=bool)
    if size < 2:
        return better_LL
    a_P, b_P = np.array(list(combinations(range(size), 2))).T
    wins_P = (error_KL[:, a_P] < error_KL[:, b_P]).sum(axis=0)
    losses_P = (error_KL[:, a_P] > error_KL[:, b_P]).sum(axis=0)
    # two-sided sign test: twice the tail of the rarer side of a fair coin
    p_P = np.minimum(1.0, 2 * binom.cdf(np.minimum(wins_P, losses_P), wins_P + losses_P, 0.5))
    # Holm 1979: the pairs by p-value, tested in turn at 5 % over the number still untested, up to
    # the first that fails
    order_P = np.argsort(p_P, kind="stable")
    passed_P = p_P[order_P] <= RISK / (len(p_P) - np.arange(len(p_P)))
    for at in order_P[np.logical_and.accumulate(passed_P)].tolist():
        won = wins_P[at] > losses_P[at]
        better_LL[(a_P[at], b_P[at]) if won else (b_P[at], a_P[at])] = True
    return better_LL


def _kinds_needed(size: int) -> int:
    """The fewest kinds at which the first of Holm's tests can pass, where all kinds agree."""
    pairs = max(1, size * (size - 1) // 2)
    return 1 + int(np.ceil(np.log2(pairs / RISK)))
