"""What a procedure finds: thresholds that keep promises, or why there are none."""

from __future__ import annotations

from dataclasses import dataclass

from demur.base.arrays import Bools
from demur.core.goals.promised import PromisedGoal
from demur.core.rates import ByUnits, Rate, Slice, stored
from demur.stats.units import CountedRows


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """The errors of one goal at given thresholds, and how surely its level holds."""

    goal: PromisedGoal
    rate: Rate  # errors out of the requests that the goal speaks of
    # of "the rate is above the level", small when the level surely holds: see demur.stats.units;
    # P(Binomial(rows, level) <= errors) where rows are independent
    p_value: float
    # one-sided upper bound of the rate at the confidence asked for; 1 without rows
    upper: float
    words: str = ""  # what the rows are as evidence, where they are not one request each
    # the 95 % interval of the rate, where its counts do not tell it
    by_units: ByUnits | None = None
    mix: tuple[Slice, ...] = ()  # the same errors and requests by slice


def evidence(goal: PromisedGoal, rows: CountedRows, error_N: Bools, delta: float) -> Evidence:
    """The p-value and upper bound of one goal from its errors on counted rows.

    Without rows nothing is known: the p-value and the bound are 1.
    """
    rate, by_units = stored(rows.measured(error_N))
    return Evidence(
        goal=goal,
        rate=rate,
        by_units=by_units,
        p_value=rows.p_value(error_N, goal.level, delta),
        upper=rows.upper(error_N, delta),
        words=rows.words(error_N, delta),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Certified:
    """Thresholds that keep every goal of a task, jointly, with the confidence asked for."""

    # probabilities in [0, 1] or inf: one per category, or a single one for one score
    thresholds: tuple[float, ...]
    evidence: tuple[Evidence, ...]  # one per goal, in the order of the task
    method: str
    # delta of the test of each goal; None where it is divided further, over categories
    tested_at: float | None = None
    # from where on each category that defers does so, as `thresholds`; None: none does
    held_from: tuple[float, ...] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class RowsWanted:
    """The rows of one goal's kind with which a plan succeeds."""

    goal: PromisedGoal
    rows: int  # pieces of evidence at hand: rows; of one group or session one
    needed: int
    rate: float  # the true rate of the thresholds that the plan rests on


@dataclass(frozen=True, kw_only=True, slots=True)
class Outlook:
    """How many rows would certify goals, and with what probability."""

    success: float
    # Whether rows at hand bound the rates, so that their error is inside the probability. Else the
    # rates are assumed: nothing shows yet that some thresholds keep them.
    bounded: bool
    wanted: tuple[RowsWanted, ...]  # one per goal
    # assumed only: rates that, if none goes below, the rows show with the same probability
    refuted: tuple[float, ...] = ()

    @property
    def short(self) -> tuple[RowsWanted, ...]:
        """The goals that too few rows are at hand for, the shortest of them first."""
        found = [w for w in self.wanted if w.needed > w.rows]
        return tuple(sorted(found, key=lambda w: w.rows / w.needed))


@dataclass(frozen=True, kw_only=True, slots=True)
class Uncertified:
    """Goals that these rows do not certify, though nothing shows that they cannot be met."""

    reason: str
    blocking: PromisedGoal  # the goal that is furthest from being certified
    rows: int  # rows at hand that this goal speaks of
    # the fewest of that kind that could do: without an error, or by the outlook; None: not known
    rows_needed: int | None
    evidence: tuple[Evidence, ...]  # at the thresholds that come closest; empty if there are none
    instead: str = ""  # what to ask for instead, where that is known
    outlook: Outlook | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Reach:
    """The lowest rate of one goal on these rows while every other goal is kept."""

    goal: PromisedGoal
    lowest: float | None  # None: the other goals cannot be kept together


@dataclass(frozen=True, kw_only=True, slots=True)
class Infeasible:
    """Goals that no thresholds keep together on these scores, which a test says with an error
    probability that the reason names.
    """

    reason: str
    # the first goal, in order of priority, that cannot be met beside those before it
    blocking: PromisedGoal
    reachable: tuple[Reach, ...]  # the trade-off: one per goal


Failure = Uncertified | Infeasible
