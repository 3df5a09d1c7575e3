"""The wealth of a gambler who bets against a hypothesis and begins anew at every step: evidence
that grows soon after a change, however late the change comes.

1. At every step each of J bets multiplies what is staked on it by a factor. The factors have a mean
   of at most 1, given all that came before, while the hypothesis is true.
2. Half of the first unit of wealth is staked at once, in equal parts. The other half is a reserve:
   at every step a part of it, fixed beforehand, is staked as well. So the stakes are a mixture over
   the steps at which a change may have begun, and a quiet past costs the reserve, not everything.
3. What is staked at a step, and the reserve, are nonnegative supermartingales, so their sum is one.
   It starts at 1: P(it ever reaches 1 / alpha) <= alpha over the whole life (Ville 1939).
A plain sum of restarted processes (an e-detector: Shin, Ramdas and Rinaldo, arXiv 2203.03532) has
no such bound over a life: it bounds the mean time to a false alarm. Hence the weights, which sum
to 1. Everything is kept in logarithms, in J + 1 numbers however long the life.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from demur.base.arrays import Doubles

AT_ONCE = 0.5  # of the wealth: staked before the first step
# The reserve after t steps is (1 - AT_ONCE) (1 + t / SPREAD)^-DECAY. A change after t steps costs
# about log(1 / (stakes placed within the time that finds it)): 5 nats at t = 100, 11 at 100,000.
SPREAD, DECAY = 100.0, 0.2


@dataclass(frozen=True, kw_only=True, slots=True)
class Wealth:
    """What is staked on each bet; plain numbers, to be stored and read back."""

    log_stake_J: tuple[float, ...]  # natural logs
    steps: int = 0  # since the reserve was full

    @property
    def log_total(self) -> float:
        """Natural log of all wealth, the reserve included."""
        return float(np.logaddexp.reduce([*self.log_stake_J, math.log(_reserve(self.steps))]))


def begin(bets: int) -> Wealth:
    """The wealth before the first step."""
    return Wealth(log_stake_J=(math.log(AT_ONCE / bets),) * bets)


def play(wealth: Wealth, log_factor_TJ: Doubles) -> tuple[Wealth, Doubles]:
    """Multiply the stakes through T steps; also the natural log of all wealth after each.

    log_factor_TJ: natural logs, finite, of the factor of each bet at each step.
    """
    if len(log_factor_TJ) == 0:
        return wealth, np.zeros(0)
    bets = len(wealth.log_stake_J)
    left_T = _reserve(wealth.steps + np.arange(len(log_factor_TJ) + 1.0))
    placed_T = np.log((left_T[:-1] - left_T[1:]) / bets)  # on each bet, before its factor
    # V_t = (V_{t-1} + w_t) g_t, divided by G_t = g_1 ... g_t, is a sum of w_t / G_{t-1}
    grown_TJ = np.cumsum(log_factor_TJ, axis=0)
    first_1J = np.array([wealth.log_stake_J])
    added_TJ = placed_T[:, None] - (grown_TJ - log_factor_TJ)
    sums_TJ = np.logaddexp.accumulate(np.concatenate([first_1J, added_TJ]), axis=0)[1:]
    stake_TJ = sums_TJ + grown_TJ
    total_T = np.logaddexp(np.logaddexp.reduce(stake_TJ, axis=1), np.log(left_T[1:]))
    after = Wealth(
        log_stake_J=tuple(stake_TJ[-1].tolist()), steps=wealth.steps + len(log_factor_TJ)
    )
    return after, np.asarray(total_T, dtype=np.float64)


def _reserve(steps: Doubles | float) -> Doubles:
    """What of the reserve is left after so many steps."""
    return np.asarray((1.0 - AT_ONCE) * (1.0 + steps / SPREAD) ** -DECAY, dtype=np.float64)
