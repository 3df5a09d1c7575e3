"""Calibration without cells: cumulative sums of (event - probability), and a line through the log-odds.

Tests of "the forecast is calibrated": a small p-value speaks against it. Undefined, with the reason, where every
probability is 0 or 1, or where the events allow no finite line.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import erfc

from demur.base.arrays import Doubles, Ints
from demur.stats.calibration.views import View
from demur.stats.measure import Figure

_NO_NOISE = "every probability is 0 or 1: nothing is left to chance"
_STEPS = 50  # of Newton's method; it needs about 8 where there is a maximum
_CLOSE = 1e-10  # change of slope and offset at which it has arrived
_STEEP = 1e3  # a slope that no calibration data have: events are separated, the maximum lies at infinity


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationTest:
    """A statistic and how rarely a calibrated forecast exceeds it."""

    error: float  # as a difference of probabilities
    standardised: Figure  # in units of the standard deviation that calibration implies
    p_value: Figure


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """log-odds of the event = slope x log-odds of its probability + offset; calibrated: 1 and 0."""

    slope: Figure
    slope_sd: Figure  # standard error
    offset: Figure
    offset_sd: Figure


def kolmogorov_smirnov(view: View) -> CalibrationTest:
    """Largest absolute cumulated difference. Gupta et al. 2021 (arXiv 2006.12800); asymptotic p-value.

    Read at the ends of runs of tied probabilities only, so that the order of rows does not matter.
    """
    error = float(np.abs(_walk(view)).max())
    return _tested(view, error, _highest_excursion)


def kuiper(view: View) -> CalibrationTest:
    """Range of the cumulated difference, which sees over- and under-confidence in one. Tygert 2022; Feller 1951."""
    walk = _walk(view)
    error = float(max(walk.max(), 0.0) - min(walk.min(), 0.0))
    return _tested(view, error, _range_of_path)


def spiegelhalter(view: View) -> CalibrationTest:
    """Whether the Brier score is what calibration implies: z and its two-sided p-value. Spiegelhalter 1986."""
    p_N, pull_N = view.p_N, 1.0 - 2.0 * view.p_N
    error = float(((view.event_N - p_N) * pull_N).mean())
    variance = float((pull_N**2 * p_N * (1.0 - p_N)).sum()) / view.rows**2
    if variance == 0.0:
        return CalibrationTest(error=error, standardised=_undefined(_NO_NOISE), p_value=_undefined(_NO_NOISE))
    z = error / math.sqrt(variance)
    return CalibrationTest(
        error=error, standardised=Figure(number=z), p_value=Figure(number=math.erfc(abs(z) / math.sqrt(2)))
    )


def line(view: View) -> Line:
    """The logistic regression of the event on the log-odds (Cox 1958), by Newton's method, with standard errors."""
    why = _no_line(view)
    if why:
        return _no(why)
    log_odds_N = np.log(view.p_N) - np.log1p(-view.p_N)
    x_N2 = np.stack([log_odds_N, np.ones(view.rows)], axis=1)
    fit = np.zeros(2)
    for _ in range(_STEPS):
        p_N = 1.0 / (1.0 + np.exp(-np.clip(x_N2 @ fit, -700.0, 700.0)))
        information = x_N2.T @ (x_N2 * (p_N * (1.0 - p_N))[:, None])
        if np.linalg.cond(information) > 1.0 / np.finfo(float).eps or np.abs(fit).max() > _STEEP:
            break
        step = np.linalg.solve(information, x_N2.T @ (view.event_N - p_N))
        fit = fit + step
        if np.abs(step).max() < _CLOSE:
            sd = np.sqrt(np.diag(np.linalg.inv(information)))
            slope, slope_sd, offset, offset_sd = (Figure(number=float(x)) for x in (fit[0], sd[0], fit[1], sd[1]))
            return Line(slope=slope, slope_sd=slope_sd, offset=offset, offset_sd=offset_sd)
    return _no("no finite line fits best: the probabilities separate the events, or nearly so")


def _walk(view: View) -> Doubles:
    return (view.event_P - view.p_P)[view.run_ends] / view.rows


def _tested(view: View, error: float, survival: Callable[[float], float]) -> CalibrationTest:
    sd = math.sqrt(float((view.p_N * (1.0 - view.p_N)).sum())) / view.rows
    if sd == 0.0:
        return CalibrationTest(error=error, standardised=_undefined(_NO_NOISE), p_value=_undefined(_NO_NOISE))
    return CalibrationTest(
        error=error, standardised=Figure(number=error / sd), p_value=Figure(number=survival(error / sd))
    )


def _highest_excursion(x: float) -> float:
    """P(a Brownian motion on [0, 1] leaves [-x, x])."""
    k = _terms(x)
    return _probability(2.0 * ((-1.0) ** k * erfc((2 * k + 1) * x / math.sqrt(2))).sum())


def _range_of_path(x: float) -> float:
    """P(highest minus lowest point of a Brownian motion on [0, 1] > x): Feller 1951, integrated term by term."""
    k = _terms(x) + 1
    return _probability(4.0 * ((-1.0) ** (k - 1) * k * erfc(k * x / math.sqrt(2))).sum())


def _terms(x: float) -> Ints:
    """0, 1, ... as far as a term of the alternating series can matter; below x = 0.1 both sums are 1 to all digits."""
    return np.arange(math.ceil(10.0 / max(x, 0.1)))


def _probability(p: float) -> float:
    return float(min(max(p, 0.0), 1.0))


def _no_line(view: View) -> str:
    if not 0.0 < view.base_rate < 1.0:
        return "all events are of one kind"
    if view.p_N[0] <= 0.0 or view.p_N[-1] >= 1.0:
        return "a probability is 0 or 1: its log-odds are infinite"
    return "all probabilities are equal" if view.p_N[0] == view.p_N[-1] else ""


def _undefined(why: str) -> Figure:
    return Figure(number=None, why=why)


def _no(why: str) -> Line:
    return Line(slope=_undefined(why), slope_sd=_undefined(why), offset=_undefined(why), offset_sd=_undefined(why))
