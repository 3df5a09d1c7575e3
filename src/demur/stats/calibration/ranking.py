"""Comparing orders: rank correlations of measurements, and which of several calibrators stands
first.

Shapes: S series over X cases, L calibrators.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.stats import friedmanchisquare, kendalltau, rankdata, spearmanr, studentized_range

from demur.base.arrays import Doubles
from demur.base.errors import DataError
from demur.stats.measure import Statistic

Correlation = Literal["kendall", "spearman"]

FEWEST_CASES = 3  # two cases always correlate perfectly
RISK = 0.05  # of telling calibrators apart that do not differ


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibratorRank:
    """A calibrator among the others."""

    calibrator: str
    mean_rank: float  # 1 is best; tied values share the mean of their ranks
    place: int  # equal places: these cases do not separate them
    best_in: int  # cases in which none was better


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranking:
    """Calibrators, best first, and whether they differ at all."""

    standings: tuple[CalibratorRank, ...]
    cases: int  # in which every calibrator was measured
    # Friedman test of "they do not differ"; undefined for fewer than 3 calibrators or 2 cases
    p_value: Statistic
    critical_difference: Statistic  # of mean ranks, at 5 %; undefined where one case cannot tell


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


def rank(calibrators: Sequence[str], error_XL: Doubles) -> Ranking:
    """Rank calibrators by their errors in X cases (models, subsets). Cases with a NaN are left out.

    A place is shared by all whose mean rank is within Nemenyi's critical difference of the place's
    first (Demsar 2006). Raises DataError if shapes do not fit or no case has every calibrator
    measured.
    """
    if error_XL.ndim != 2 or error_XL.shape[1] != len(calibrators):
        raise DataError(
            f"errors of shape {error_XL.shape} for {len(calibrators)} calibrators",
            "expected (cases, L)",
        )
    error_XL = error_XL[np.isfinite(error_XL).all(axis=1)]
    cases, size = error_XL.shape
    if cases == 0:
        raise DataError(
            "in no case is every calibrator measured", "measure all calibrators on the same models"
        )
    # rank 1 for the smallest error of each case, ties share the mean of their ranks (Friedman 1937)
    mean_L = rankdata(error_XL, axis=1).mean(axis=0)
    best_L = (error_XL == error_XL.min(axis=1, keepdims=True)).sum(axis=0)
    difference = _nemenyi(cases, size)
    standings: list[CalibratorRank] = []
    for at in np.argsort(mean_L, kind="stable").tolist():
        mean = float(mean_L[at])
        # the first of the current place: all others are compared with it, not with their neighbour,
        # so that many small steps cannot join the best to the worst
        leader = next((s for s in standings if s.place == standings[-1].place), None)
        shared = leader is not None and mean - leader.mean_rank <= (difference.number or 0.0)
        place = leader.place if leader is not None and shared else len(standings) + 1
        standings.append(
            CalibratorRank(
                calibrator=calibrators[at], mean_rank=mean, place=place, best_in=int(best_L[at])
            )
        )
    return Ranking(
        standings=tuple(standings),
        cases=cases,
        p_value=_friedman(error_XL),
        critical_difference=difference,
    )


def _friedman(error_XL: Doubles) -> Statistic:
    cases, size = error_XL.shape
    if size < 3 or cases < 2:
        return Statistic(
            number=None, why=f"{size} calibrators in {cases} cases: the test needs 3 in 2"
        )
    if (error_XL == error_XL[:, :1]).all():
        return Statistic(number=None, why="all calibrators are tied in every case")
    return Statistic(number=float(friedmanchisquare(*error_XL.T).pvalue))


def _nemenyi(cases: int, size: int) -> Statistic:
    if size < 2 or cases < 2:
        return Statistic(
            number=None, why=f"{size} calibrators in {cases} cases cannot be told apart"
        )
    # Nemenyi's critical difference of mean ranks, Demsar 2006 section 3.2.2: the quantile of the
    # studentised range with infinitely many degrees of freedom, over sqrt(2)
    q = float(studentized_range.ppf(1.0 - RISK, size, np.inf)) / np.sqrt(2.0)
    return Statistic(number=float(q * np.sqrt(size * (size + 1) / (6.0 * cases))))
