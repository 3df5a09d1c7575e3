"""A judged rate, corrected by hand labels of a random few of the same answers. Shapes: N judged answers, M checked.

Unbiased whatever the judge does, because nothing is assumed of its errors: they are measured on the very answers that
the rate is about. The N answers are the whole of what is asked about; M of them were drawn at random and labelled.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import t as student

from demur.core import bounds
from demur.core.errors import DataError, Undefined
from demur.stats.judged import Corrected

Bools = npt.NDArray[np.bool_]
Doubles = npt.NDArray[np.float64]

LEAST = 10  # checked rows below which nothing is corrected
RARE = 10  # checked hits, or misses, below which the exact interval of the hand labels is the honest one


@dataclass(frozen=True, kw_only=True, slots=True)
class Sums:
    """What one stratum contributes: an estimate, its variance and the degrees of freedom behind that."""

    value: float
    variance: float
    freedom: int


def regression_rate(judge_N: Doubles, hand_N: Doubles, known_N: Bools, confidence: float = 0.95) -> Corrected:
    """The mean of the hand's values over all N rows, from the judge's on all and the hand's where known.

    judge_N: 0, 1 or anything between, such as 0.5 where the judge could not score. hand_N: 0 or 1; read only where
    known_N. Regression estimator of a finite set (Cochran 1977, chapter 7), the finite form of PPI++: mean_N(w J) +
    mean_M(H - w J) with w of least variance, variance with factor 1 - M/N; Student's t. Fewer than 10 hits or misses by
    hand: the exact binomial interval of the hand labels alone. Raises Undefined on fewer than 10 known rows.
    """
    _check(judge_N, hand_N, known_N)
    hand_M = hand_N[known_N]
    m, hits = len(hand_M), int(hand_M.sum())
    if m < LEAST:
        raise Undefined(f"{m} of {len(judge_N)} rows are labelled by hand", f"label at least {LEAST} drawn at random")
    if m == len(judge_N):
        value = float(hand_M.mean())
        return Corrected(value=value, low=value, high=value, method="every row is labelled by hand")
    if min(hits, m - hits) < RARE:
        low, high = bounds.interval(hits, m, confidence)
        return Corrected(value=hits / m, low=low, high=high, method="hand labels alone, exact: too rare to correct")
    return _interval([(1.0, _sums(judge_N, hand_M, known_N))], confidence, f"regression on {m} hand labels")


def stratified_rate(
    judge_N: Doubles, hand_N: Doubles, known_N: Bools, strata: Sequence[str], confidence: float = 0.95
) -> Corrected:
    """regression_rate where the checked rows were drawn at random within strata, in whatever shares.

    Each stratum is corrected by itself and counts as it does among the N rows (Horvitz and Thompson 1952 weights).
    Raises Undefined where a stratum has fewer than 10 known rows.
    """
    _check(judge_N, hand_N, known_N)
    name_N = np.array(strata)
    parts = []
    for name in sorted(set(strata)):
        of_N = name_N == name
        known_S = known_N[of_N]
        if known_S.sum() < LEAST:
            raise Undefined(
                f"stratum {name!r}: {known_S.sum()} of {of_N.sum()} rows are labelled by hand",
                f"label at least {LEAST} in each, or merge strata",
            )
        parts.append((float(of_N.mean()), _sums(judge_N[of_N], hand_N[of_N][known_S], known_S)))
    return _interval(parts, confidence, f"regression on {int(known_N.sum())} hand labels in {len(parts)} strata")


def _sums(judge_N: Doubles, hand_M: Doubles, known_N: Bools) -> Sums:
    judge_M, m, n = judge_N[known_N], len(hand_M), len(judge_N)
    spread = float(np.var(judge_M, ddof=1))
    weight = float(np.cov(hand_M, judge_M)[0, 1]) / spread if spread > 0 else 0.0
    residual_M = hand_M - weight * judge_M
    freedom = m - 2 if spread > 0 else m - 1
    variance = (1 - m / n) * float(((residual_M - residual_M.mean()) ** 2).sum()) / freedom / m
    return Sums(value=float(weight * judge_N.mean() + residual_M.mean()), variance=variance, freedom=freedom)


def _interval(parts: Sequence[tuple[float, Sums]], confidence: float, method: str) -> Corrected:
    value = sum(share * sums.value for share, sums in parts)
    variance = sum(share**2 * sums.variance for share, sums in parts)
    quantile = float(student.ppf(0.5 + confidence / 2, sum(sums.freedom for _, sums in parts)))
    half = quantile * math.sqrt(variance)
    low, high = max(0.0, value - half), min(1.0, value + half)
    return Corrected(value=min(max(value, 0.0), 1.0), low=low, high=high, method=method)


def _check(judge_N: Doubles, hand_N: Doubles, known_N: Bools) -> None:
    if not len(judge_N) == len(hand_N) == len(known_N) or not len(judge_N):
        raise DataError(
            f"{len(judge_N)} judged values, {len(hand_N)} by hand, {len(known_N)} marks", "one of each a row"
        )
    if not np.isin(hand_N[known_N], (0.0, 1.0)).all():
        raise DataError("a hand label is neither 0 nor 1", "1 = the answer declines")
