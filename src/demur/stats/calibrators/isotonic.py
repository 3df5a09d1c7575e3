"""Isotonic regression: the best never-decreasing map (pool adjacent violators), by scipy."""

from __future__ import annotations

import numpy as np
from scipy.optimize import isotonic_regression

from demur.base.arrays import Bools, Doubles
from demur.core.maps.binary import Isotonic, expit
from demur.stats.calibrators.one_vs_rest import shrunk


def fit_isotonic(log_odds_N: Doubles, event_N: Bools, shrink: float = 1.0) -> Isotonic:
    """Fit isotonic regression on probabilities, in which it also interpolates. Wants about 1,000
    rows.

    shrink: see one_vs_rest.shrunk; 0 gives plain isotonic regression with its exact zeros and ones.
    """
    return isotonic_of(expit(log_odds_N), event_N, shrink)


def isotonic_of(p_N: Doubles, event_N: Bools, shrink: float) -> Isotonic:
    """Fit isotonic regression on probabilities. Tied scores are one point; of each plateau only the
    ends are kept.
    """
    # one weighted point per distinct score: the fit must not depend on the order of ties
    score_G, group_N = np.unique(p_N, return_inverse=True)
    rows_G = np.bincount(group_N).astype(np.float64)
    pooled = isotonic_regression(np.bincount(group_N, weights=event_N) / rows_G, weights=rows_G)
    first_B, last_B = pooled.blocks[:-1], pooled.blocks[1:] - 1
    value_B = shrunk(pooled.x[first_B], pooled.weights, float(event_N.mean()), shrink)
    # small blocks shrink further, and may pass a neighbour
    value_B = np.maximum.accumulate(value_B)
    score_J = np.stack([score_G[first_B], score_G[last_B]], axis=1).ravel()
    kept_J = np.append(True, score_J[1:] != score_J[:-1])
    return Isotonic(
        score_J=tuple(score_J[kept_J].tolist()),
        calibrated_J=tuple(value_B.repeat(2)[kept_J].tolist()),
    )
