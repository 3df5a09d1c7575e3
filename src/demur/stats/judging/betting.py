"""A confidence bound for the mean of bounded values that are no plain hits and misses."""

from __future__ import annotations

import numpy as np

from demur.base.arrays import Doubles

_BISECTIONS = 24  # to 1e-7 of the range
_BOLDNESS = 0.9  # of the largest bet that cannot ruin the gambler


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
    below, above = 0.0, 1.0 - 1e-9
    for _ in range(_BISECTIONS):
        middle = (below + above) / 2
        below, above = (below, middle) if refuted(middle) else (middle, above)
    return low + (high - low) * above
