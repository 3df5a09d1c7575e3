"""Testing several hypotheses with one error budget, where a finished one funds the others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from demur.base.arrays import Doubles
from demur.base.errors import GoalError


def graphical(
    p_H: Sequence[float], weight_H: Sequence[float], transfer_HH: Doubles, delta: float
) -> frozenset[int]:
    """Indices of the rejected hypotheses; a true one is among them with probability <= delta.

    p_H: p-values, NaN counts as 1. weight_H: shares of delta, sum <= 1. transfer_HH: what a
    rejected hypothesis (row) passes on to each other one (column): rows sum to <= 1, diagonal 0.
    Bonferroni: no transfer. Holm: equal weights and transfers. Fixed sequence: all weight on the
    first, each passes all of it to the next. The result does not depend on the order of rejection.
    Raises GoalError on weights or transfers that do not fit.

    Source: Bretz, Maurer, Brannath and Posch (2009).
    """
    p = np.nan_to_num(np.asarray(p_H, dtype=np.float64), nan=1.0)
    weight, transfer = np.array(weight_H, dtype=np.float64), np.array(transfer_HH, dtype=np.float64)
    _check(len(p), weight, transfer)
    active = set(range(len(p)))
    while True:
        found = next((i for i in sorted(active) if p[i] <= weight[i] * delta), None)
        if found is None:
            return frozenset(range(len(p))) - active
        active.remove(found)
        weight, transfer = _without(found, weight, transfer)


def _without(i: int, weight: Doubles, transfer: Doubles) -> tuple[Doubles, Doubles]:
    """Weights and transfers after hypothesis i is rejected and leaves the graph."""
    weight = weight + weight[i] * transfer[i]
    loop = transfer[:, i] * transfer[i, :]  # j -> i -> j: what would come back to the giver
    through = transfer + np.outer(transfer[:, i], transfer[i])
    passed = np.divide(
        through, 1.0 - loop[:, None], out=np.zeros_like(transfer), where=loop[:, None] < 1.0
    )
    np.fill_diagonal(passed, 0.0)
    weight[i], passed[i, :], passed[:, i] = 0.0, 0.0, 0.0
    return weight, passed


def _check(count: int, weight: Doubles, transfer: Doubles) -> None:
    if weight.shape != (count,) or transfer.shape != (count, count):
        raise GoalError(
            f"{count} p-values, weights of shape {weight.shape}, transfers of shape "
            f"{transfer.shape}",
            "one of each",
        )
    if (weight < 0).any() or weight.sum() > 1.0 + 1e-9:
        raise GoalError(
            f"weights {weight.tolist()} sum to {weight.sum():g}, expected shares of 1", "scale them"
        )
    if (transfer < 0).any() or (transfer.sum(axis=1) > 1.0 + 1e-9).any() or np.diag(transfer).any():
        raise GoalError(
            "transfers need rows that sum to at most 1 and an empty diagonal", "scale them"
        )
