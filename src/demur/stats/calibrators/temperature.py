"""Temperature scaling: one number. Guo et al. 2017, arXiv 1706.04599."""

from __future__ import annotations

import math

import numpy as np
from scipy.optimize import brentq

from demur.core.calibrator import Doubles, normalised
from demur.core.maps import Temperature
from demur.stats.calibrators.rows import Fit, FitRows, Ints

BOUND = 10.0  # of |log T|


def fit_temperature(rows: FitRows) -> Fit:
    """The temperature with the least mean log loss: the root of a monotone derivative, so exact.

    Notes when there is no such temperature: every row right and separated (T -> 0), or scores that say nothing
    about the labels (T -> inf); T is then at its bound.
    """
    logits_NC = rows.closed_NC
    low, high = (_slope(b, logits_NC, rows.label_N) for b in (-BOUND, BOUND))
    if low >= 0.0 or high <= 0.0:
        temperature = math.exp(BOUND if low >= 0.0 else -BOUND)
        what = "the scores do not tell the labels apart" if low >= 0.0 else "every row is right: no finite optimum"
        note = f"temperature {temperature:.3g} is at its bound: {what}"
        return Fit(map=Temperature(temperature=temperature), notes=(note,))
    log_scale = brentq(_slope, -BOUND, BOUND, args=(logits_NC, rows.label_N), xtol=1e-13, rtol=1e-14)
    return Fit(map=Temperature(temperature=math.exp(-log_scale)))


def _slope(log_scale: float, logits_NC: Doubles, label_N: Ints) -> float:
    """Derivative of the mean log loss by the inverse temperature: increasing."""
    q_NC = np.exp(normalised(math.exp(log_scale) * logits_NC))
    return float(((q_NC * logits_NC).sum(axis=1) - logits_NC[np.arange(len(label_N)), label_N]).mean())
