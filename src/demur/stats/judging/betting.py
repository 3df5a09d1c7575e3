"""Confidence bounds for the mean of bounded values that are no plain hits and misses, by bets
against the mean: bets that follow the values (upper_mean), and constant ones, for which order plays
no part.

Shapes: M values, V different ones, B sizes of bets.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from demur.base.arrays import Doubles, Ints

_HALVINGS = 40  # of a bound, to 1e-12 of the range
_FEWER = 24  # to 1e-7, where each costs a pass over all values
_BOLDNESS = 0.9  # of the largest bet that cannot ruin the gambler
_RATIO = 2.6  # of neighbouring variances that constant bets are sized for
_GRID = 4096  # values are rounded to this grid where there are more different ones


def upper_mean(value_M: Doubles, low: float, high: float, delta: float) -> float:
    """One-sided upper bound: P(mean > bound) <= delta, for independent values in [low, high], in
    any order.

    A gambler bets against "the mean is m" before each value; wealth above 1 / delta, at any time,
    refutes m (Ville). Bets follow the spread seen so far. Wealth grows with m, so the bound is
    found by bisection. `high` without values.

    Source: Waudby-Smith and Ramdas (2020, arXiv 2010.09686), one side only.
    """
    if not len(value_M):
        return high
    x_M = (value_M - low) / (high - low)
    # running mean and variance, each with one pseudo-observation (1/2 and 1/4): they start defined
    count_M = np.arange(1, len(x_M) + 1)
    mean_M = (0.5 + np.cumsum(x_M)) / (count_M + 1)
    spread_M = (0.25 + np.cumsum((x_M - mean_M) ** 2)) / (count_M + 1)
    before_M = np.concatenate([[0.25], spread_M[:-1]])  # a bet must not see its own value
    bet_M = np.sqrt(2 * np.log(1 / delta) / (len(x_M) * before_M))

    def refuted(m: float) -> bool:
        # a stake of 1 / (1 - m) or more could lose everything at x = 1; log1p needs wealth above 0
        capped_M = np.minimum(bet_M, _BOLDNESS / max(1.0 - m, 1e-12))
        return bool(np.cumsum(np.log1p(-capped_M * (x_M - m))).max() >= np.log(1 / delta))

    if not refuted(1.0 - 1e-9):
        return high
    return low + (high - low) * least_refuted(refuted, high=1.0 - 1e-9, halvings=_FEWER)


def tabled(share_U: Doubles) -> tuple[tuple[float, int], ...]:
    """Count the units that have each share."""
    value_V, times_V = np.unique(share_U, return_counts=True)
    if len(value_V) > _GRID:
        value_V, times_V = np.unique(np.round(share_U * _GRID) / _GRID, return_counts=True)
    return tuple(zip(value_V.tolist(), times_V.tolist(), strict=True))


def betting_upper(
    shares: Sequence[tuple[float, int]], apart: float, delta: float, most: float = 1.0
) -> float:
    """Upper bound of the mean of independent values in [0, 1], by constant bets against it, or
    `most` if that is smaller; the bets fail with probability <= delta.

    shares: (value, how often). With constant_bets every factor of the wealth against a mean grows
    with that mean: the bound is found by bisection, and a larger value never lowers it.
    """
    value_V = np.array([value for value, _ in shares])
    times_V = np.array([times for _, times in shares], dtype=np.float64)
    units, aim = float(times_V.sum()), math.log(1.0 / delta)

    def refuted(mean: float) -> bool:
        # Bet times mean grows with the mean, and bet times 1 - mean falls.
        bet_B = constant_bets(mean * (1.0 - mean), units, apart, aim, 1.0 / (1.0 - mean))
        return log_wealth(mean, bet_B, value_V, times_V) >= aim

    low, high = float(value_V @ times_V) / units, most
    if low >= high or (high < 1.0 and not refuted(high)):
        return most
    return least_refuted(refuted, low, high, _FEWER)


def least_refuted(
    refuted: Callable[[float], bool],
    low: float = 0.0,
    high: float = 1.0,
    halvings: int = _HALVINGS,
) -> float:
    """The least value in [low, high] that is refuted, as all above it are: an upper bound, by
    bisection; `high` where none is.
    """
    for _ in range(halvings):
        middle = (low + high) / 2.0
        low, high = (low, middle) if refuted(middle) else (middle, high)
    return high


def constant_bets(alike: float, units: float, apart: float, aim: float, most: float) -> Doubles:
    """Constant bets against "the mean is at least so much", shape (B,): those that earn most where
    it is just refuted, with wealth of exp(aim).

    That is sqrt(2 aim / (units variance)), and at most `most`. alike: the variance of a unit's
    value if its requests err all alike; apart: its factor where they err independently. A
    geometric grid of variances spans the two.
    """
    steps = max(1, math.ceil(math.log(1.0 / apart) / math.log(_RATIO)))
    factor_B = apart ** ((np.arange(steps) + 0.5) / steps)  # in the middle of parts of [apart, 1]
    return np.asarray(np.minimum(np.sqrt(2.0 * aim / (units * factor_B * alike)), most))


def log_wealth(mean: float, bet_B: Doubles, value_V: Doubles, times_V: Doubles | Ints) -> float:
    """Natural log of the mean wealth of constant bets against "the mean is at least this": each is
    a product of 1 + bet (mean - value), once for each time that a value occurs.

    Its expectation is at most 1 if the mean of independent values is that large, in whatever order
    they come and also where they differ in their own means, so that wealth of 1 / delta refutes it
    with probability delta at most (Markov). Bets against a bounded mean: Waudby-Smith and Ramdas
    (arXiv 2010.09686).
    """
    with np.errstate(divide="ignore"):  # a stake of everything, lost: the log is -inf
        factor_BV = np.log(np.maximum(1.0 + bet_B[:, None] * (mean - value_V), 0.0))
    return float(np.logaddexp.reduce(factor_BV @ times_V) - math.log(len(bet_B)))
