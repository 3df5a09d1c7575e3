"""Temperature scaling: one number. Guo et al. 2017, arXiv 1706.04599."""

from __future__ import annotations

import math

import numpy as np
from scipy.optimize import brentq
from scipy.special import softmax

from demur.base.arrays import Doubles, Ints
from demur.core.maps.multiclass import Temperature
from demur.stats.calibrators.rows import FitRows, FittedMap

BOUND = 10.0  # of |log T|


def fit_temperature(rows: FitRows) -> FittedMap:
    """The temperature with the least mean log loss. Notes when it is at its bound: see
    best_temperature.
    """
    temperature, why = best_temperature(rows)
    notes = (f"temperature {temperature:.3g} is at its bound: {why}",) if why else ()
    return FittedMap(map=Temperature(temperature=temperature), notes=notes)


def best_temperature(rows: FitRows) -> tuple[float, str]:
    """The root of a monotone derivative, so exact; and why there is none, in which case it is at
    its bound.

    Every row right and separated asks for T -> 0, scores that say nothing about the labels for T ->
    inf.
    """

    def slope(log_scale: float) -> float:
        return _slope(math.exp(log_scale), rows.closed_NC, rows.label_N)

    if slope(-BOUND) >= 0.0:
        return math.exp(BOUND), "the scores do not tell the labels apart"
    if slope(BOUND) <= 0.0:
        return math.exp(-BOUND), "every row is right, no finite value is best"
    return math.exp(-brentq(slope, -BOUND, BOUND, xtol=1e-13, rtol=1e-14)), ""


def _slope(scale: float, logits_NC: Doubles, label_N: Ints) -> float:
    """Derivative of the mean log loss by the inverse temperature: increasing."""
    q_NC = softmax(scale * logits_NC, axis=1)
    return float(
        ((q_NC * logits_NC).sum(axis=1) - logits_NC[np.arange(len(label_N)), label_N]).mean()
    )
