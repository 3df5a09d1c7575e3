"""Platt scaling: a line in log-odds, fitted to targets that never quite reach 0 and 1. Platt
1999.
"""

from __future__ import annotations

import numpy as np

from demur.base.arrays import Bools, Doubles
from demur.core.maps.binary import Platt, expit

_RIDGE = 1e-12  # scores that are all equal leave the slope undetermined: it then stays 0
_MOST_STEPS = 100


def fit_platt(log_odds_N: Doubles, event_N: Bools, *, smooth: bool = True) -> Platt:
    """Fit slope and offset with the least log loss, by Newton's method with step halving.

    smooth: Platt's targets (n1 + 1) / (n1 + 2) and 1 / (n0 + 2), which keep separable rows finite.
    Not scikit-learn's logistic regression: that one needs a penalty, or gives up Newton with a
    warning, where all scores are equal.
    """
    events, others = int(event_N.sum()), int((~event_N).sum())
    high, low = ((events + 1.0) / (events + 2.0), 1.0 / (others + 2.0)) if smooth else (1.0, 0.0)
    target_N = np.where(event_N, high, low)
    scale = max(1.0, float(np.abs(log_odds_N).max()))  # large features spoil the first steps
    x_N2 = np.stack([log_odds_N / scale, np.ones(len(log_odds_N))], axis=1)
    theta = np.array([0.0, np.log((events + 1.0) / (others + 1.0))])

    def loss_at(theta: Doubles) -> float:
        u_N = x_N2 @ theta
        return float((np.logaddexp(0.0, u_N) - target_N * u_N).sum())

    loss = loss_at(theta)
    for _ in range(_MOST_STEPS):
        # Newton: the Hessian of the log loss is X' diag(p (1 - p)) X; a step that does not lower
        # the loss is halved until it does (Lin, Lin and Weng 2007)
        p_N = expit(x_N2 @ theta)
        curvature = (x_N2 * (p_N * (1.0 - p_N))[:, None]).T @ x_N2 + _RIDGE * np.eye(2)
        step = np.linalg.solve(curvature, x_N2.T @ (p_N - target_N))
        while (moved := loss_at(theta - step)) > loss and np.abs(step).max() > 1e-14:
            step = step / 2.0
        if moved >= loss or np.abs(step).max() <= 1e-12:
            break
        theta, loss = theta - step, moved
    return Platt(slope=float(theta[0]) / scale, offset=float(theta[1]))
