"""Sequential test of a promise by labelled answers: an e-process for "the rate is at most the
level".

1. After each label the evidence E is the likelihood of all labels so far, averaged over rates above
   the level, divided by their likelihood at the level.
2. While the rate is at most the level, E is a nonnegative supermartingale that starts at 1, so by
   Ville's inequality (1939) P(E ever reaches 1 / alpha) <= alpha: one may look after every label.
3. The mean over rates is a Beta(1/2, 1/2) prior cut off at the level (Robbins 1970's mixture): no
   alternative has to be guessed.
It needs a random sample: of requests that ought to be answered for false refusals, of those that
ought to be refused for missed ones.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.special import betaincc, betaln, xlog1py, xlogy

from demur.base.arrays import Doubles, Ints
from demur.base.errors import DataError
from demur.core.goals.promised import PromisedGoal
from demur.core.rates import Rate

NOTHING_SEEN = Rate(hits=0, of=0)
PRIOR = 0.5  # Beta(1/2, 1/2), cut off below the level: how likely which broken rate is


@dataclass(frozen=True, kw_only=True, slots=True)
class Audit:
    """The state of one audited promise; plain numbers, to be stored and read back. Raises DataError
    on a bad level.
    """

    goal: PromisedGoal  # of the promise
    rate: Rate = NOTHING_SEEN  # errors among audited requests
    highest_log_e: float = 0.0  # so far: an alarm does not go away

    def __post_init__(self) -> None:
        if not 0.0 < self.level < 1.0:
            raise DataError(
                f"audit of {self.risk!r}: level {self.level}",
                "expected a rate strictly between 0 and 1",
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
        return self.goal.whom == "any" and not self.sliced

    @property
    def log_e(self) -> float:
        """Natural log of E after the labels so far."""
        return float(
            log_evidence(np.array([self.rate.hits]), np.array([self.rate.of]), self.level)[0]
        )


def update_audit(state: Audit, error_T: npt.NDArray[np.bool_]) -> Audit:
    """Update an audit with new labels, in the order in which they came; True is an error (a false
    or a missed refusal).
    """
    if len(error_T) == 0:
        return state
    # E after each of the T labels, because an alarm counts from the highest that E ever was
    hits_T = state.rate.hits + np.cumsum(error_T, dtype=np.int64)
    of_T = state.rate.of + np.arange(1, len(error_T) + 1)
    highest = max(state.highest_log_e, float(log_evidence(hits_T, of_T, state.level).max()))
    return replace(state, rate=Rate(hits=int(hits_T[-1]), of=int(of_T[-1])), highest_log_e=highest)


def log_evidence(hits: Ints, of: Ints, level: float) -> Doubles:
    """Natural log of E: the mean likelihood ratio of rates above the level against the level
    itself.

    hits, of: counts of the same shape. level: in (0, 1). -inf where errors are so rare that it
    underflows: no evidence. Robbins 1970; Ramdas et al. 2023 (arXiv 2210.01948).
    """
    # Integral over r in (level, 1) of r^hits (1 - r)^misses under the prior = upper incomplete beta
    # function; betaincc is regularised, so betaln is put back. Divided by the prior's own mass
    # above the level and by level^hits (1 - level)^misses.
    misses = of - hits
    a, b = PRIOR + hits, PRIOR + misses
    with np.errstate(divide="ignore"):
        mixed = np.log(betaincc(a, b, level)) + betaln(a, b)
    prior = np.log(betaincc(PRIOR, PRIOR, level)) + betaln(PRIOR, PRIOR)
    return np.asarray(
        mixed - prior - xlogy(hits, level) - xlog1py(misses, -level), dtype=np.float64
    )
