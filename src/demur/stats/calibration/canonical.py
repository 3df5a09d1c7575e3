"""Calibration of whole vectors: kernels over all pairs of rows. O(N^2 C), hence on at most 5,000 rows.

Shapes: N rows, C control tokens, M rows of a block.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist
from scipy.special import gammaln, logsumexp

from demur.base.arrays import Doubles, Ints
from demur.base.errors import DataError
from demur.stats.calibration.views import Forecast

MOST_ROWS = 5000
BLOCK = 1000
SUBSAMPLE_SEED = 0  # the same rows on every call
LOWEST_P = 1e-300  # a probability of 0 has no logarithm


@dataclass(frozen=True, kw_only=True, slots=True)
class KernelError:
    """Squared kernel calibration error."""

    unbiased: float  # mean over pairs of different rows; about 0 when calibrated, may be negative
    biased: float  # mean over all pairs, >= 0
    rows: int  # rows used


def skce(f: Forecast, width: float = 1.0) -> KernelError:
    """Kernel exp(-|p - p'| / width) on vectors, identity on labels. Widmann, Lindsten and Zachariah 2019 (1910.11385).

    Raises DataError with fewer than two rows.
    """
    p_NC, label_N = _some(f)
    rows = len(label_N)
    if rows < 2:
        raise DataError("one row makes no pair", "a kernel calibration error needs two rows")
    residual_NC = np.eye(p_NC.shape[1])[label_N] - p_NC
    total = sum(
        float((np.exp(-cdist(p_NC[at], p_NC) / width) * (residual_NC[at] @ residual_NC.T)).sum())
        for at in _blocks(rows)
    )
    own = float((residual_NC**2).sum())
    return KernelError(unbiased=(total - own) / (rows * (rows - 1)), biased=total / rows**2, rows=rows)


def dirichlet_error(f: Forecast, bandwidth: float = 1.0) -> float:
    """Mean squared distance of each vector to a Dirichlet-kernel estimate of the labels there, leaving itself out.

    Popordanoska, Sayer and Blaschko 2022 (arXiv 2210.07810), order 2, no root. Raises DataError on fewer than two rows.
    """
    p_NC, label_N = _some(f)
    if len(label_N) < 2:
        raise DataError("one row has no neighbour", "a kernel calibration error needs two rows")
    log_p_NC = np.log(np.maximum(p_NC, LOWEST_P))
    alpha_NC = p_NC / bandwidth + 1.0
    log_norm_N = gammaln(alpha_NC.sum(axis=1)) - gammaln(alpha_NC).sum(axis=1)
    happened_NC = np.eye(p_NC.shape[1])[label_N]
    total = 0.0
    for at in _blocks(len(label_N)):
        log_k_MN = log_p_NC[at] @ (alpha_NC - 1.0).T + log_norm_N
        log_k_MN[np.arange(len(at)), at] = -np.inf
        weight_MN = np.exp(log_k_MN - logsumexp(log_k_MN, axis=1, keepdims=True))
        total += float(((weight_MN @ happened_NC - p_NC[at]) ** 2).sum())
    return total / len(label_N)


def _some(f: Forecast) -> tuple[Doubles, Ints]:
    """At most MOST_ROWS rows, a fixed random choice."""
    if len(f.label_N) <= MOST_ROWS:
        return f.p_NC, f.label_N
    chosen = np.random.default_rng(SUBSAMPLE_SEED).choice(len(f.label_N), MOST_ROWS, replace=False)
    return f.p_NC[chosen], f.label_N[chosen]


def _blocks(rows: int) -> Iterator[Ints]:
    return (np.arange(start, min(start + BLOCK, rows)) for start in range(0, rows, BLOCK))
