"""Beta calibration. Kull, Silva Filho and Flach 2017; for several classes as a softmax of per-class
lines.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from scipy.special import log_softmax

from demur.base.arrays import Bools, Doubles
from demur.core.maps.binary import Beta
from demur.core.maps.multiclass import BetaSoftmax, Pair, log_rest
from demur.stats.calibrators.affine import ParameterBounds, minimised
from demur.stats.calibrators.rows import FitRows, FittedMap

Variant = Literal["abm", "am", "ab"]
_LN2 = float(np.log(2.0))


def fit_beta(rows: FitRows) -> FittedMap:
    """Fit beta calibration: a, b, c of the refusal for two control tokens, three numbers per token
    for more.

    Raises DataError if a label is missing.
    """
    rows.require_every_label()
    if rows.closed_NC.shape[1] == 2:
        map_ = fit_beta_binary(rows.closed_NC[:, 1] - rows.closed_NC[:, 0], rows.label_N == 1)
        constant = (
            ("a = b = 0: the scores say nothing, the base rate stands",)
            if map_.a == map_.b == 0
            else ()
        )
        return FittedMap(map=Pair(map=map_), notes=constant)
    return FittedMap(map=_fit_softmax(rows))


def fit_beta_binary(log_odds_N: Doubles, event_N: Bools, variant: Variant = "abm") -> Beta:
    """Fit logistic regression on log p and -log(1 - p) with weights >= 0.

    variant: abm all free; am with a = b; ab with the midpoint fixed at 1/2, c = (a - b) log 2.
    """
    # log p and -log(1 - p), exact from log-odds
    x_N2 = np.stack([-np.logaddexp(0.0, -log_odds_N), np.logaddexp(0.0, log_odds_N)], axis=1)
    if variant == "am":
        design = np.stack([x_N2.sum(axis=1), np.ones(len(x_N2))], axis=1)
    elif variant == "ab":
        # c = (a - b) log 2 folded into the features: a (log p + log 2) + b (-log(1 - p) - log 2)
        design = x_N2 + np.array([_LN2, -_LN2])
    else:
        design = np.concatenate([x_N2, np.ones((len(x_N2), 1))], axis=1)
    sign_N = np.where(event_N, 1.0, -1.0)

    def objective(theta: Doubles) -> tuple[float, Doubles]:
        lost_N = np.logaddexp(0.0, -sign_N * (design @ theta))
        return float(lost_N.mean()), design.T @ (-sign_N * -np.expm1(-lost_N)) / len(design)

    # a and b at least 0 keep the map increasing (Kull et al.); c is free, and absent for
    # ab
    free: ParameterBounds = [(None, None)] if variant != "ab" else []
    theta = minimised(
        objective,
        np.ones(design.shape[1]),
        bounds=[(0.0, None)] * (design.shape[1] - len(free)) + free,
    )
    if variant == "am":
        return Beta(a=float(theta[0]), b=float(theta[0]), c=float(theta[1]))
    a, b = float(theta[0]), float(theta[1])
    return Beta(a=a, b=b, c=(a - b) * _LN2 if variant == "ab" else float(theta[2]))


def _fit_softmax(rows: FitRows) -> BetaSoftmax:
    x_NC, y_NC, columns = rows.closed_NC, -log_rest(rows.closed_NC), rows.closed_NC.shape[1]
    at = (np.arange(len(x_NC)), rows.label_N)

    def objective(theta: Doubles) -> tuple[float, Doubles]:
        a, b, c = theta.reshape(3, columns)
        logq_NC = log_softmax(a * x_NC + b * y_NC + c, axis=1)
        residual_NC = np.exp(logq_NC)
        residual_NC[at] -= 1.0
        parts = [(residual_NC * f).mean(axis=0) for f in (x_NC, y_NC, 1.0)]
        return -float(logq_NC[at].mean()), np.concatenate(parts)

    start = np.concatenate([np.ones(2 * columns), np.zeros(columns)])
    bounds: ParameterBounds = [(0.0, None)] * (2 * columns) + [(None, None)] * columns
    a, b, c = minimised(objective, start, bounds).reshape(3, columns)
    return BetaSoftmax(a=tuple(a.tolist()), b=tuple(b.tolist()), c=tuple((c - c.mean()).tolist()))
