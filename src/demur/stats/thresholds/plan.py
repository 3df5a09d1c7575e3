"""What n labels can certify, and how many would do, before anything is fitted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from demur.base.errors import GoalError
from demur.core.goals.goal import Goal
from demur.core.goals.promised import PromisedGoal, promised
from demur.core.rates import binomial_cdf, most_errors, rows_needed, upper_bound

POWER = 0.8
_MOST_ERRORS = 10**6  # where the search for a number of rows ends


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanRow:
    """One goal, and what labels can say of it."""

    goal: str
    labels: str  # what is counted: "to be answered", "to be refused with safety", ...
    have: int | None  # labelled rows of that kind; None if not told
    # errors among them (the tested part) that would still certify it; None: not even 0 would
    allowed: int | None
    # the lowest level that rows without an error could certify; None without rows
    lowest: float | None
    needed: int  # rows with which it is certified if none errs
    # rows with which it is certified in 4 of 5 cases if the true rate is half the level
    likely: int


def plan_labels(
    goals: Sequence[Goal],
    have: Mapping[str, int] | None = None,
    *,
    confidence: float = 0.95,
    tested: float = 1.0,
) -> tuple[PlanRow, ...]:
    """One row per promised goal.

    have: labelled rows per kind, "respond" for those to be answered, else the category; of rows
    made from one another one. tested: the share of them that a procedure tests on (1 for one shared
    threshold and budgets; 0.6 for paths and vectors at their default). Raises GoalError on a goal
    that is no promise, an unknown category, or a bad confidence.
    """
    if not 0.0 < confidence < 1.0 or not 0.0 < tested <= 1.0:
        raise GoalError(
            f"confidence {confidence} and tested {tested} must be shares", "0.95 and 1 are usual"
        )
    if have is not None and any(n < 0 for n in have.values()):
        raise GoalError(
            f"label counts {dict(have)} must not be negative",
            "count the labelled rows of each kind",
        )
    delta = 1.0 - confidence
    asked = tuple(map(promised, goals))
    return tuple(
        plan_row(g, None if have is None else g.rows_told(have), delta, tested) for g in asked
    )


def rows_likely(rate: float, level: float, delta: float, power: float = POWER) -> int | None:
    """The fewest rows that certify "rate <= level" with probability >= power when the rate is as
    given.

    Exact for up to 64 errors, to within a thousandth above. None if the rate is not below the
    level, or too close.
    """
    if rate >= level:
        return None

    def enough(k: int) -> bool:
        return binomial_cdf(k, rows_for_errors(k, level, delta), rate) >= power

    k = next((k for k in range(65) if enough(k)), None)
    if k is not None:
        return rows_for_errors(k, level, delta)
    low, high = 64, 128
    while not enough(high):
        low, high = high, 2 * high
        if high > _MOST_ERRORS:
            return None
    while high - low > 1 + high // 1000:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return rows_for_errors(high, level, delta)


def rows_for_errors(k: int, level: float, delta: float) -> int:
    """The fewest rows that certify rate <= level with k errors: the smallest n with BinCDF(k; n,
    level) <= delta.
    """
    low, high = k, max(2 * k, 1)
    while binomial_cdf(k, high, level) > delta:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if binomial_cdf(k, middle, level) <= delta else (middle, high)
    return high


def plan_row(goal: PromisedGoal, have: int | None, delta: float, tested: float = 1.0) -> PlanRow:
    """The row of one goal. have: labelled rows that it speaks of, of rows made from one another
    one.
    """
    rows = None if have is None else math.floor(have * tested)
    needed, likely = (
        rows_needed(goal.level, delta),
        rows_likely(goal.level / 2, goal.level, delta),
    )
    return PlanRow(
        goal=goal.text,
        labels=goal.labels,
        have=have,
        allowed=None if not rows else most_errors(rows, goal.level, delta),
        lowest=upper_bound(0, rows, delta) if rows else None,
        needed=math.ceil(needed / tested),
        likely=math.ceil((likely or needed) / tested),
    )
