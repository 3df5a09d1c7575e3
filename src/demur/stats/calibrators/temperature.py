"""Temperature scaling: one number. Guo et al. 2017, arXiv 1706.04599."""

from __future__ import annotations

import math

import numpy as np
from scipy.optimize import brentq
from scipy.special import softmax

from demur.core.maps.multiclass import Temperature
from demur.stats.calibrators.rows import FitRows, FittedMap

BOUND = 10.0  # of |log T|


def fit_temperature(rows: FitRows) -> FittedMap:
    """Fit the temperature with the least mean log loss. Notes when it is at its bound: see
    best_temperature.
    """
    temperature, why = best_temperature(rows)
    notes = (f"temperature {temperature:.3g} is at its bound: {why}",) if why else ()
    return FittedMap(map=Temperature(temperature=temperature), notes=notes)


def best_temperature(rows: FitRows) -> tuple[float, str]:
    """The temperature with the least log loss, and why it is at its bound, or "".

    With s = 1 / T the log loss is convex in s, so its derivative increases: its root is the one
    minimum, found by bracketing (Brent). Where every row is right and separated T -> 0, where the
    scores say nothing about the labels T -> inf: no root, and the bound is returned.
    """
    own_N = rows.closed_NC[np.arange(len(rows.label_N)), rows.label_N]

    def slope(log_scale: float) -> float:
        """Derivative of the mean log loss by s at s = exp(log_scale).

        It is the mean of E_q[logp] less logp of the label.
        """
        q_NC = softmax(math.exp(log_scale) * rows.closed_NC, axis=1)
        return float(((q_NC * rows.closed_NC).sum(axis=1) - own_N).mean())

    if slope(-BOUND) >= 0.0:
        return math.exp(BOUND), "the scores do not tell the labels apart"
    if slope(BOUND) <= 0.0:
        return math.exp(-BOUND), "every row is right, no finite value is best"
    return math.exp(-brentq(slope, -BOUND, BOUND, xtol=1e-13, rtol=1e-14)), ""
