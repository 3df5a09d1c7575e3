"""Platt scaling: a line in log-odds, fitted to targets that never quite reach 0 and 1. Platt 1999."""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import LogisticRegression

from demur.core.binary_maps import Platt
from demur.core.calibrator import Doubles
from demur.stats.calibrators.rows import Bools


def fit_platt(log_odds_N: Doubles, event_N: Bools, *, smooth: bool = True) -> Platt:
    """Slope and offset with the least log loss. smooth: Platt's targets (n1 + 1) / (n1 + 2) and 1 / (n0 + 2).

    A fractional target t is a row seen as an event with weight t and as none with weight 1 - t.
    """
    events = int(event_N.sum())
    high = (events + 1.0) / (events + 2.0) if smooth else 1.0
    low = 1.0 / (len(event_N) - events + 2.0) if smooth else 0.0
    target_N = np.where(event_N, high, low)
    # scikit-learn's default penalty with infinite C is none; newton-cholesky converges to machine precision.
    model = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-9, max_iter=200)
    scale = max(1.0, float(np.abs(log_odds_N).max()))  # large features spoil the first Newton steps
    x_N1 = (log_odds_N / scale)[:, None]
    model.fit(
        np.concatenate([x_N1, x_N1]),
        np.repeat([1, 0], len(x_N1)),
        sample_weight=np.concatenate([target_N, 1.0 - target_N]),
    )
    return Platt(slope=float(model.coef_[0, 0]) / scale, offset=float(model.intercept_[0]))
