"""Labels by a judge, a few of them checked by hand: corrected rates, and promises that hold for the
hand's labels.

The rows checked by hand must be drawn at random from the judged ones. A judge's error rates hold
for the population they were measured on, no other: correct with labels of the system under test
(specs: judges).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from demur.base.arrays import Doubles
from demur.base.errors import Undefined
from demur.core.rates import Rate


@dataclass(frozen=True, kw_only=True, slots=True)
class RateEstimate:
    """A rate corrected for a judge's errors, with its interval and the method."""

    value: float
    low: float
    high: float
    method: str


def rogan_gladen(
    judged: Rate, sensitivity: Rate, specificity: Rate, confidence: float = 0.95
) -> RateEstimate:
    """Estimate the true rate behind a judged one, from the judge's hits on known positives and
    known negatives.

    Rogan and Gladen (1978), clipped to [0, 1]; interval of Lang and Reiczigel (2014), on as many
    pieces of evidence as there are units. Raises Undefined for a judge that is no better than a
    coin.
    """
    q, se, sp = judged.value, sensitivity.value, specificity.value
    if se + sp <= 1.0:
        raise Undefined(
            f"sensitivity {se:g} and specificity {sp:g} carry no information",
            "use hand labels alone",
        )
    z = float(norm.ppf(0.5 + confidence / 2))
    # Lang and Reiczigel: pseudo-counts (one hit and one miss for sensitivity and specificity, z^2 /
    # 2 each for the judged rate), then the delta method with a shifted midpoint
    n_se, n_sp, n_q = sensitivity.units + 2, specificity.units + 2, judged.units + z * z
    se_ = (se * sensitivity.units + 1) / n_se
    sp_ = (sp * specificity.units + 1) / n_sp
    q_ = (q * judged.units + z * z / 2) / n_q
    rate, scale = (q_ + sp_ - 1) / (se_ + sp_ - 1), (se_ + sp_ - 1) ** 2
    v_se, v_sp = se_ * (1 - se_) / n_se, sp_ * (1 - sp_) / n_sp
    middle = rate + 2 * z * z * (rate * v_se - (1 - rate) * v_sp)
    half = z * math.sqrt((q_ * (1 - q_) / n_q + rate**2 * v_se + (1 - rate) ** 2 * v_sp) / scale)
    return RateEstimate(
        value=_clip((q + sp - 1) / (se + sp - 1)),
        low=_clip(middle - half),
        high=_clip(middle + half),
        method="Rogan-Gladen, Lang-Reiczigel interval",
    )


def prediction_powered(
    hand_M: Doubles, judge_M: Doubles, judge_N: Doubles, confidence: float = 0.95
) -> tuple[RateEstimate, float]:
    """Estimate the mean of the hand labels from M checked rows and N others that only the judge
    saw; and the weight of these.

    lambda mean(judge_N) + mean(hand_M - lambda judge_M), whatever the judge does, with the lambda
    of least variance (PPI++: Angelopoulos, Duchi and Zrnic 2023, arXiv 2311.01453), which is learnt
    on the same rows: the bias is of the order of 1/M. Normal interval: for rates near 0 or 1 take
    the exact one of the hand labels. Raises Undefined on fewer than 2 rows of either sort.
    """
    m, n = len(hand_M), len(judge_N)
    if m < 2 or n < 2 or len(judge_M) != m:
        raise Undefined(
            f"{m} checked rows, {len(judge_M)} judged ones of them, {n} others",
            "2 of each at least",
        )
    spread = float(np.var(np.concatenate([judge_M, judge_N]), ddof=1))
    together = float(np.cov(hand_M, judge_M)[0, 1])
    # PPI++ equation for a mean: lambda = Cov(H, J) / ((1 + m / n) Var J)
    weight = together / ((1 + m / n) * spread) if spread > 0 else 0.0
    value = weight * judge_N.mean() + (hand_M - weight * judge_M).mean()
    se = math.sqrt(
        weight**2 * np.var(judge_N, ddof=1) / n + np.var(hand_M - weight * judge_M, ddof=1) / m
    )
    half = float(norm.ppf(0.5 + confidence / 2)) * se
    return RateEstimate(
        value=float(value), low=float(value - half), high=float(value + half), method="PPI++"
    ), weight


def _clip(rate: float) -> float:
    return float(min(max(rate, 0.0), 1.0))
