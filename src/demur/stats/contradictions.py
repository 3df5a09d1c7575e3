"""Contradicted promises: promised rates on rows that no threshold was chosen on, and whether their
intervals lie above the level.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from demur.base.errors import DataError
from demur.core.goals.goal import Promise
from demur.core.policy import Policy
from demur.core.rates import Rate, Slice
from demur.stats.labelled import LabelledScores
from demur.stats.thresholds.losses import rate_under

# settings under which promises are about other rows than the splits hold
ELSEWHERE = ("traffic", "human_labels", "mix")


@dataclass(frozen=True, kw_only=True, slots=True)
class Contradiction:
    """A certified promise that other rows contradict."""

    promise: Promise
    rate: Rate  # on these rows, with their units

    @property
    def text(self) -> str:
        """The contradiction in words: "false_refusal is promised at 0.05 and is 8.1% (6.9 to 9.4)
        on 1,200 test rows".
        """
        low, high = self.rate.interval()
        found = f"{100 * self.rate.value:.1f}% ({100 * low:.1f} to {100 * high:.1f})"
        rows = f"{self.rate.of:,} test rows"
        if self.rate.units < self.rate.of:
            rows = f"{self.rate.of:,} test requests in {self.rate.units:,} units"
        return f"{self.promise.risk} is promised at {self.promise.level:g} and is {found} on {rows}"


def promised_rate(
    promise: Promise, policy: Policy, rows: LabelledScores
) -> tuple[Rate, tuple[Slice, ...]] | None:
    """A promised rate and its slices on other rows. None where these hold no row that the promise
    is about.
    """
    try:
        return rate_under(policy, promise.goal, rows)
    except DataError:
        return None


def contradicted_promises(
    policy: Policy, rows: LabelledScores, calibrated: Mapping[str, object] = MappingProxyType({})
) -> tuple[Contradiction, ...]:
    """The certified promises whose 95 % interval on these rows lies wholly above the level.

    calibrated: the settings of the calibrate stage; a promise of other traffic, or of labels by
    hand, is not about these rows. A promise that is kept is contradicted by chance in at most 2.5 %
    of all draws of these rows.
    """
    found: list[Contradiction] = []
    if any(calibrated.get(other) for other in ELSEWHERE):
        return ()
    for promise in policy.promises:
        if promise.status == "certified" and promise.level is not None:
            tested = promised_rate(promise, policy, rows)
            # The lower end is above the true rate in at most 2.5 % of all draws
            if tested is not None and tested[0].interval()[0] > promise.level:
                found.append(Contradiction(promise=promise, rate=tested[0]))
    return tuple(found)
