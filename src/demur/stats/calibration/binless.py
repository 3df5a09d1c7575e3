"""Calibration error without bins: cumulative sums of (event - probability), and their test.

1. Rows are sorted by probability; S_k is the sum of (event - probability) over the first k rows.
2. Under calibration S is a sum of independent terms of mean 0 and variance p (1 - p), so scaled
   it is asymptotically a Brownian motion (Gupta et al. 2021, arXiv 2006.12800).
3. The error is the largest |S_k| / N, the p-value how often a Brownian motion goes that far.
A small p-value speaks against "the forecast is calibrated". Undefined, with the reason, where every
probability is 0 or 1: nothing is left to chance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import erfc

from demur.stats.calibration.views import BinaryView
from demur.stats.measure import Statistic


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationTest:
    """A statistic and how rarely a calibrated forecast exceeds it."""

    error: float  # as a difference of probabilities
    standardised: Statistic  # in units of the standard deviation that calibration implies
    p_value: Statistic


def kolmogorov_smirnov(view: BinaryView) -> CalibrationTest:
    """Largest absolute cumulated difference. Gupta et al. 2021 (arXiv 2006.12800); asymptotic
    p-value.

    Read at the ends of runs of tied probabilities only, so that the order of rows does not matter.
    """
    walk_R = (view.event_P - view.p_P)[view.run_ends] / view.rows
    error = float(np.abs(walk_R).max())
    sd = math.sqrt(float((view.p_N * (1.0 - view.p_N)).sum())) / view.rows
    if sd == 0.0:
        no_noise = Statistic(
            number=None, why="every probability is 0 or 1: nothing is left to chance"
        )
        return CalibrationTest(error=error, standardised=no_noise, p_value=no_noise)
    return CalibrationTest(
        error=error,
        standardised=Statistic(number=error / sd),
        p_value=Statistic(number=_exit_probability(error / sd)),
    )


def _exit_probability(x: float) -> float:
    """P(a Brownian motion on [0, 1] leaves [-x, x])."""
    # Reflection principle: 2 sum_k (-1)^k erfc((2k + 1) x / sqrt(2)). The series alternates; terms
    # with (2k + 1) x > 20 are below 1e-80, and below x = 0.1 the sum is 1 to all digits.
    k = np.arange(math.ceil(10.0 / max(x, 0.1)))
    p = float(2.0 * ((-1.0) ** k * erfc((2 * k + 1) * x / math.sqrt(2))).sum())
    return min(max(p, 0.0), 1.0)
