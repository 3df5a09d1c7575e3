"""Calibration without cells: cumulative sums of (event - probability), and the test that they give.

A small p-value speaks against "the forecast is calibrated". Undefined, with the reason, where every
probability is 0 or 1: nothing is left to chance.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import erfc

from demur.base.arrays import Doubles, Ints
from demur.stats.calibration.views import BinaryView
from demur.stats.measure import Statistic

_NO_NOISE = "every probability is 0 or 1: nothing is left to chance"


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
    error = float(np.abs(_walk(view)).max())
    return _tested(view, error, _highest_excursion)


def _walk(view: BinaryView) -> Doubles:
    return (view.event_P - view.p_P)[view.run_ends] / view.rows


def _tested(view: BinaryView, error: float, survival: Callable[[float], float]) -> CalibrationTest:
    sd = math.sqrt(float((view.p_N * (1.0 - view.p_N)).sum())) / view.rows
    if sd == 0.0:
        return CalibrationTest(
            error=error, standardised=_undefined(_NO_NOISE), p_value=_undefined(_NO_NOISE)
        )
    return CalibrationTest(
        error=error,
        standardised=Statistic(number=error / sd),
        p_value=Statistic(number=survival(error / sd)),
    )


def _highest_excursion(x: float) -> float:
    """P(a Brownian motion on [0, 1] leaves [-x, x])."""
    k = _terms(x)
    return _probability(2.0 * ((-1.0) ** k * erfc((2 * k + 1) * x / math.sqrt(2))).sum())


def _terms(x: float) -> Ints:
    """0, 1, ... as far as a term of the alternating series can matter; below x = 0.1 both sums are
    1 to all digits.
    """
    return np.arange(math.ceil(10.0 / max(x, 0.1)))


def _probability(p: float) -> float:
    return float(min(max(p, 0.0), 1.0))


def _undefined(why: str) -> Statistic:
    return Statistic(number=None, why=why)
