"""Sequential test of a promise by labelled answers: an e-process for "the rate is at most the
level".

1. A unit is a session, or a request of no session. Its error share x lies in [0, 1]: 0 or 1 where
   one request of it is labelled.
2. While the rate is at most the level a, each x has a mean of at most a, whatever came before. A
   stake on the rate q > a multiplies by 1 + (q - a) (x - a) / (a (1 - a)), which has then a mean of
   at most 1; for x = 0 and 1 it is the likelihood of q divided by that of a. Betting on bounded
   means: Waudby-Smith and Ramdas, arXiv 2010.09686.
3. Several q are bet on, begun anew at every unit (demur.stats.drift.wealth), so P(the evidence E
   ever reaches 1 / alpha) <= alpha: one may look after every label.
It needs a random sample: of requests that ought to be answered for false refusals, of those that
ought to be refused for missed ones.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from demur.base.arrays import Doubles
from demur.base.errors import DataError
from demur.core.goals.promised import PromisedGoal
from demur.core.rates import Rate
from demur.stats.drift.wealth import Wealth, begin, play

NOTHING_SEEN = Rate(hits=0, of=0)
ODDS = (1.25, 1.6, 2.2, 3.5, 7.0, 20.0)  # of the rates bet on, divided by those of the level
START = begin(len(ODDS))


@dataclass(frozen=True, kw_only=True, slots=True)
class Audit:
    """The state of one audited promise; plain numbers, to be stored and read back. Raises DataError
    on a bad level.
    """

    goal: PromisedGoal  # of the promise
    rate: Rate = NOTHING_SEEN  # errors among audited requests
    units: int = 0  # sessions of these requests, and requests of no session
    wealth: Wealth = START
    highest_log_e: float = 0.0  # natural log of the highest E so far: an alarm does not go away

    def __post_init__(self) -> None:
        if not 0.0 < self.level < 1.0:
            raise DataError(
                f"audit of {self.risk!r}: level {self.level}",
                "expected a rate strictly between 0 and 1",
            )
        if len(self.wealth.log_stake_J) != len(ODDS):
            raise DataError(
                f"audit of {self.risk!r}: {len(self.wealth.log_stake_J)} bets",
                f"expected {len(ODDS)}: start afresh",
            )

    @property
    def risk(self) -> str:
        """The promise's risk, such as "false_refusal"."""
        return self.goal.risk

    @property
    def level(self) -> float:
        """The promised level, in (0, 1)."""
        return self.goal.level

    @property
    def sliced(self) -> bool:
        """Whether the promise is about a slice of the rows, which labels must then name."""
        return bool(self.goal.where)

    @property
    def of_traffic(self) -> bool:
        """Whether every request counts, labelled or not."""
        return not self.goal.labelled and not self.sliced

    @property
    def log_e(self) -> float:
        """Natural log of E now."""
        return self.wealth.log_total


def update_audit(state: Audit, share_U: Doubles, rate: Rate) -> Audit:
    """Update an audit with new units, in the order in which they came.

    share_U: the error share of each unit, in [0, 1]. rate: errors among the requests of all.
    """
    if len(share_U) == 0:
        return state
    wealth, log_e_U = play(state.wealth, log_factors(share_U, state.level))
    return replace(
        state,
        rate=Rate(hits=state.rate.hits + rate.hits, of=state.rate.of + rate.of),
        units=state.units + len(share_U),
        wealth=wealth,
        highest_log_e=max(state.highest_log_e, float(log_e_U.max())),
    )


def log_factors(share_U: Doubles, level: float) -> Doubles:
    """Natural log of what a stake on each of ODDS multiplies by, shape (U, J)."""
    odds_J = np.array(ODDS) * level / (1.0 - level)
    slope_J = (odds_J / (1.0 + odds_J) - level) / (level * (1.0 - level))
    return np.asarray(np.log1p(np.multiply.outer(share_U - level, slope_J)), dtype=np.float64)


def wealth_of_counts(rate: Rate, level: float) -> Wealth:
    """The wealth that these requests leave of what is staked at once, beside a full reserve: of a
    state of older versions, which has no wealth.
    """
    right_J, wrong_J = log_factors(np.array([0.0, 1.0]), level)
    grown_J = rate.hits * wrong_J + (rate.of - rate.hits) * right_J
    return Wealth(log_stake_J=tuple((np.array(START.log_stake_J) + grown_J).tolist()))
