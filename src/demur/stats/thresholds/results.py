"""What a procedure finds: thresholds that keep promises, or why there are none."""

from __future__ import annotations

from dataclasses import dataclass

from demur.core.goals.promised import PromisedGoal
from demur.core.rates import Rate, Slice, binomial_cdf, upper_bound


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """One goal at the thresholds in question: errors counted, and how surely the level holds."""

    goal: PromisedGoal
    rate: Rate  # errors out of the rows that the goal speaks of
    p_value: float  # P(Binomial(rows, level) <= errors): exact, small when the level surely holds
    # one-sided Clopper-Pearson bound of the rate at the confidence asked for; 1 without rows
    upper: float
    mix: tuple[Slice, ...] = ()  # the same errors and rows by kind, category and source


def evidence(goal: PromisedGoal, rate: Rate, delta: float) -> Evidence:
    """Evidence from counts. Without rows the p-value is 1: nothing is known, nothing is
    promised.
    """
    known = rate.of > 0
    return Evidence(
        goal=goal,
        rate=rate,
        p_value=binomial_cdf(rate.hits, rate.of, goal.level) if known else 1.0,
        upper=upper_bound(rate.hits, rate.of, delta) if known else 1.0,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Certified:
    """Thresholds that keep every goal of a request, jointly, with the confidence asked for."""

    # probabilities in [0, 1] or inf: one per category, or a single one for one score
    thresholds: tuple[float, ...]
    evidence: tuple[Evidence, ...]  # one per goal, in the order of the request
    method: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Uncertified:
    """Not certified on these rows, though nothing shows that the goals cannot be met."""

    reason: str
    blocking: PromisedGoal  # the goal that is furthest from being certified
    rows: int  # rows at hand that this goal speaks of
    rows_needed: int | None  # rows of that kind that would do; None if more rows alone would not
    evidence: tuple[Evidence, ...]  # at the thresholds that come closest; empty if there are none


@dataclass(frozen=True, kw_only=True, slots=True)
class Reach:
    """How low one rate can be made on these rows while every other goal is kept; None: not even
    those can be.
    """

    goal: PromisedGoal
    lowest: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Infeasible:
    """The scores at hand do not allow the goals together, whatever the thresholds."""

    reason: str
    # the first goal, in order of priority, that cannot be met beside those before it
    blocking: PromisedGoal
    reachable: tuple[Reach, ...]  # the trade-off: one per goal


Failure = Uncertified | Infeasible
