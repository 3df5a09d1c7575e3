"""Vector scaling, and matrix scaling (on log-probabilities: Dirichlet calibration) with ODIR
regularisation.

ODIR: lambda * mean of squared off-diagonal weights + mu * mean of squared offsets. Kull et al.
2019, arXiv 1910.12656.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax

from demur.base.arrays import Doubles
from demur.core.maps.multiclass import Matrix, Vector
from demur.stats.calibrators.rows import FitRows, FittedMap, folds

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)  # tried by cross-validation, lambda = mu
_FOLDS = 5
_ROUGHLY = 1e-7  # enough to tell strengths apart, which differ tenfold
ParameterBounds = list[tuple[float | None, float | None]]
LossAndGradient = Callable[[Doubles], tuple[float, Doubles]]


def fit_vector(rows: FitRows) -> FittedMap:
    """Fit vector scaling: a weight and an offset per control token with the least mean log loss.

    Raises DataError if a label is missing.
    """
    rows.require_every_label()
    x_NC, columns = rows.closed_NC, rows.closed_NC.shape[1]

    def objective(theta: Doubles) -> tuple[float, Doubles]:
        loss, residual_NC = _log_loss(x_NC * theta[:columns] + theta[columns:], rows)
        return loss, np.concatenate([(residual_NC * x_NC).mean(axis=0), residual_NC.mean(axis=0)])

    theta = minimised(objective, np.concatenate([np.ones(columns), np.zeros(columns)]))
    offsets = theta[columns:] - theta[columns:].mean()  # softmax ignores a common offset
    return FittedMap(
        map=Vector(weights=tuple(theta[:columns].tolist()), offsets=tuple(offsets.tolist()))
    )


def fit_dirichlet(rows: FitRows, strength: float | None = None) -> FittedMap:
    """Fit matrix scaling with ODIR, lambda = mu = strength; None: the best of STRENGTHS by
    cross-validation.

    Raises DataError if a label is missing. Wants about 30 C^2 rows or a strong prior: it has C (C +
    1) parameters.
    """
    rows.require_every_label()
    if strength is None:
        strength = min(STRENGTHS, key=partial(_held_out_loss, rows))
    return FittedMap(map=_fit_matrix(rows, strength), notes=(f"ODIR strength {strength:g}",))


def minimised(
    objective: LossAndGradient,
    start: Doubles,
    bounds: ParameterBounds | None = None,
    tolerance: float = 1e-16,
) -> Doubles:
    """Minimise a convex function that comes with its gradient (L-BFGS-B).

    tolerance: relative, of the last gain.
    """
    options = {"maxiter": 2000, "maxfun": 20000, "ftol": tolerance, "gtol": 1e-10}
    found = minimize(objective, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    return np.asarray(found.x, dtype=np.float64)


def _fit_matrix(rows: FitRows, strength: float, tolerance: float = 1e-16) -> Matrix:
    x_NC, columns = rows.closed_NC, rows.closed_NC.shape[1]
    outside = ~np.eye(columns, dtype=bool)

    def objective(theta: Doubles) -> tuple[float, Doubles]:
        weights, offsets = theta[:-columns].reshape(columns, columns), theta[-columns:]
        loss, residual_NC = _log_loss(x_NC @ weights.T + offsets, rows)
        # ODIR: means of squared off-diagonal weights and of squared offsets; the diagonal is free,
        # because it is what temperature and vector scaling move
        prior_weights = strength * outside * weights / (columns * (columns - 1))
        prior_offsets = strength * offsets / columns
        gradient = residual_NC.T @ x_NC / len(x_NC) + 2.0 * prior_weights
        prior = float((prior_weights * weights).sum() + (prior_offsets * offsets).sum())
        return loss + prior, np.concatenate(
            [gradient.ravel(), residual_NC.mean(axis=0) + 2.0 * prior_offsets]
        )

    start = np.concatenate([np.eye(columns).ravel(), np.zeros(columns)])
    theta = minimised(objective, start, tolerance=tolerance)
    weights = theta[:-columns].reshape(columns, columns)
    return Matrix(
        weights=tuple(map(tuple, weights.tolist())), offsets=tuple(theta[-columns:].tolist())
    )


def _held_out_loss(rows: FitRows, strength: float) -> float:
    """Summed log loss of a strength on rows held out in turn. Fitted roughly: only the order of
    strengths counts.
    """
    total = 0.0
    for fit, out in folds(rows, _FOLDS, seed=0):
        logq_NC = _fit_matrix(rows.take(fit), strength, _ROUGHLY).logq(rows.closed_NC[out])
        total -= float(logq_NC[np.arange(len(out)), rows.label_N[out]].sum())
    return total


def _log_loss(value_NC: Doubles, rows: FitRows) -> tuple[float, Doubles]:
    """Mean log loss of softmax(value), and softmax minus the one-hot labels."""
    logq_NC = log_softmax(value_NC, axis=1)
    at = (np.arange(len(value_NC)), rows.label_N)
    residual_NC = np.exp(logq_NC)
    residual_NC[at] -= 1.0
    return -float(logq_NC[at].mean()), residual_NC
