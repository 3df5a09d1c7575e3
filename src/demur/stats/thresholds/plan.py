"""How many rows certify a goal with a stated probability, from levels and delta alone.

1. A procedure holds each goal to exact binomial tests, or to evidence that holds at every look:
   GoalTest says at which level and delta, on which share of the goal's rows, and in how many parts
   (MethodPlan).
2. At thresholds of a given true rate, the errors among the tested rows are binomial, and so is how
   many of the rows are tested where others are learnt from. The probability of a pass follows
   (GoalTest.passing).
3. Several tests must all pass: each may fail with its share of what the plan may (union bound).

Rows are pieces of evidence here: of rows made from one another, or of one session, one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import bdtr
from scipy.stats import beta, binom

from demur.base.arrays import Bools, Doubles, Ints
from demur.base.errors import GoalError
from demur.core.goals.goal import Goal
from demur.core.goals.promised import PromisedGoal, promised
from demur.core.rates import binomial_cdf, rows_needed, upper_bound
from demur.stats.judging.any_look import (
    anytime_needed,
    most_errors_at_any_look,
    upper_at_any_look,
)

WRONG = 0.05  # the probability of calling goals infeasible that some thresholds keep
SUCCESS = 0.8  # the probability of a certificate that plans are made for
ASSUMED = 0.5  # of the level: the true rate that a plan assumes where no scores are at hand
_QUANTILES = 40  # of a posterior, averaged over
_MOST_ERRORS = 10**6  # where the search for a number of rows ends
# these follow from the goals: single vectors in a learned order, and pairs of them
ORDERED, BAND = "ordered", "band"
LEARNING = ("path", "vectors", ORDERED, BAND)  # learn on some of the rows that goals speak of
# test all goals on the same vectors, each at the whole of delta (intersection-union)
TOGETHER = ("vectors", ORDERED, BAND)
# choose these vectors by how few errors the learning rows show, which flatters them
_CHOOSING = ("vectors", ORDERED)
DIVIDING = ("budgets", "graphical")  # divide level and delta over the categories
AUTO = "auto"  # the best of several: demur.stats.thresholds.procedures.requests
# delta is divided over procedures where each may still err so often, as a share of the whole
WORTH_DIVIDING = 0.75


@dataclass(frozen=True, kw_only=True, slots=True)
class GoalTest:
    """The tests that a procedure holds one goal to, all of which must pass."""

    level: float  # of the goal
    delta: float  # of all its tests together
    tested: float = 1.0  # share of its rows that are tested, each row drawn alone
    tests: int = 1  # over how many categories level and delta are divided
    share: float = 1.0  # the smallest category's part of them
    # numbers of procedures, the largest first: delta is divided over the first of them that leaves
    # each nearly as many errors (worth_dividing), else not at all
    procedures: tuple[int, ...] = ()
    anytime: bool = False  # whether it may be made at every look
    # share of the rows on which single vectors are chosen: their true rates are as uncertain as
    # rates that so many rows show
    chosen_on: float = 0.0

    @property
    def needed(self) -> int:
        """The fewest tested rows that pass without an error."""
        level, delta = self.level * self.share, self.delta * self.share
        return anytime_needed(level, delta) if self.anytime else rows_needed(level, delta)

    def most_errors(self, tested_T: Ints) -> Ints:
        """The most errors among so many tested rows that pass; -1 where none does."""
        level, delta = self.level * self.share, self.delta * self.share
        if self.anytime:
            return most_errors_at_any_look(tested_T, level, delta)
        whole_T = _most_errors(tested_T, level, delta)
        most_T = whole_T
        for parts in reversed(self.procedures):
            part_T = _most_errors(tested_T, level, delta / parts)
            most_T = np.where(worth_dividing(whole_T, part_T), part_T, most_T)
        return most_T

    def lowest(self, tested: int) -> float:
        """The lowest level that so many tested rows pass without an error."""
        delta = self.delta * self.share
        bound = upper_at_any_look if self.anytime else upper_bound
        return min(1.0, bound(0, tested, delta) / self.share)

    def passing(self, rows: int, rate_Q: Doubles) -> Doubles:
        """The probability that so many rows pass at thresholds of each true rate, shape (Q,); a
        lower bound where there are several tests.
        """
        # T: how many of the rows are tested, within 7 deviations.
        middle, spread = rows * self.tested, math.sqrt(rows * self.tested * (1.0 - self.tested))
        tested_T = np.arange(
            max(0, math.floor(middle - 7 * spread)), min(rows, math.ceil(middle + 7 * spread)) + 1
        )
        # More than 200 numbers are thinned out.
        tested_T = tested_T[:: 1 + len(tested_T) // 200]
        weight_T = binom.pmf(tested_T, rows, self.tested)
        most_T = self.most_errors(tested_T)
        pass_QT = np.where(
            most_T < 0, 0.0, bdtr(np.maximum(most_T, 0), tested_T, self.share * rate_Q[:, None])
        )
        one_Q = pass_QT @ (weight_T / weight_T.sum())
        return np.asarray(np.maximum(0.0, 1.0 - self.tests * (1.0 - one_Q)))

    def rows_without_errors(self, success: float) -> int:
        """The fewest rows that pass with this probability if none errs."""
        found = self.rows_for(np.zeros(1), success)
        assert found is not None  # a rate of 0 is below every level
        return found

    def rows_likely(self, rate: float, success: float) -> int | None:
        """The fewest rows that pass with this probability at thresholds of this true rate.

        Exact for up to 64 errors where all rows are tested, else to within a thousandth above. None
        if the rate is not below the level, or too close.
        """
        if self.chosen_on:
            return self._rows_for(lambda rows: self._rates_chosen(rate, rows), rate, success)
        if self.tested < 1.0 or rate >= self.level or self.anytime or self.procedures:
            return self.rows_for(np.array([rate]), success)
        one = 1.0 - (1.0 - success) / self.tests
        level, delta = self.level * self.share, self.delta * self.share
        return rows_likely(rate * self.share, level, delta, one)

    def rows_for(self, rate_Q: Doubles, success: float) -> int | None:
        """About the fewest rows that pass with this probability, averaged over equally likely true
        rates; None if no number does.
        """
        # However many rows, only rates below the level pass.
        if float((rate_Q < self.level).mean()) <= success and not (rate_Q < self.level).all():
            return None
        return self._rows_for(lambda _: rate_Q, float(rate_Q.min()), success)

    def _rates_chosen(self, rate: float, rows: int) -> Doubles:
        """Likely true rates of vectors that err at this rate where they are chosen."""
        learning = max(rows * self.chosen_on, 1.0)
        return likely_rates(rate * learning, learning)

    def _rows_for(
        self, rates: Callable[[int], Doubles], least: float, success: float
    ) -> int | None:
        """The same where rates depend on the number of rows. least: of these rates."""
        if least >= self.level:
            return None

        def enough(rows: int) -> bool:
            return float(self.passing(rows, rates(rows)).mean()) >= success

        low, high = self.needed - 1, math.ceil(self.needed / self.tested)
        while not enough(high):
            low, high = high, 2 * high
            if high * self.level > _MOST_ERRORS:
                return None
        return _first(enough, low, high, 1000)


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
    needed: int  # rows with which it is certified, with probability `success`, if none errs
    # rows with which it is certified with probability `success` at thresholds of true rate `rate`;
    # None: no number is, the rate may well be above the level
    likely: int | None
    rate: float  # the true rate that is assumed of the thresholds; or the mean of likely ones
    success: float  # the probability that all goals of the plan are certified together


@dataclass(frozen=True, kw_only=True, slots=True)
class MethodPlan:
    """What a method spends: its error probability, and the share of rows that it learns from."""

    method: str
    delta: float
    learn_share: float = 0.4

    def tests(
        self,
        goals: Sequence[PromisedGoal],
        shares: Sequence[Sequence[float]],
        exact: Sequence[float],
    ) -> tuple[GoalTest, ...]:
        """The tests that the method holds goals to which it certifies together.

        shares: per goal those of its categories, read by budgets and graphical. exact: per goal the
        part of delta that its test by drawn rows gets (demur.stats.units).
        """
        # shared, even, path and anytime: goals on one side share its delta, because fixed-sequence
        # testing ends at the most careful of their thresholds; the two sides divide it.
        sides = 1 if self.method in TOGETHER else len({goal.errs_when for goal in goals})
        divides, anytime = self.method in DIVIDING, self.method == "anytime"
        answerable = all(goal.of_answerable for goal in goals)
        # anytime learns where an even path, learnt on rows to be refused, will not do.
        learns = self.method in LEARNING or (anytime and not answerable)
        found = []
        for goal, own, part in zip(goals, shares, exact, strict=True):
            found.append(
                GoalTest(
                    level=goal.level,
                    # of linked rows anytime tests those that came first alone
                    delta=self.delta
                    / (len(goals) if divides else sides)
                    * (1.0 if anytime else part),
                    tested=1.0 - self.learn_share if learns else 1.0,
                    tests=len(own) if divides else 1,
                    share=min(own) / sum(own) if divides else 1.0,
                    procedures=self._procedures(goals),
                    anytime=anytime,
                    chosen_on=self.learn_share if self.method in _CHOOSING else 0.0,
                )
            )
        return tuple(found)

    def _procedures(self, goals: Sequence[PromisedGoal]) -> tuple[int, ...]:
        """The numbers of procedures that "auto" may try for these goals together."""
        if self.method != AUTO:
            return ()
        if all(goal.of_answerable for goal in goals):
            return (3, 2)  # shared, even and path
        # one goal alone takes one threshold, with its closed form
        return (2,) if len(goals) > 1 else ()


def worth_dividing(whole_T: Ints, part_T: Ints) -> Bools:
    """Whether a part of delta allows nearly as many errors as the whole, and some."""
    return np.asarray((part_T >= WORTH_DIVIDING * whole_T) & (part_T > 0), dtype=bool)


def _most_errors(tested_T: Ints, level: float, delta: float) -> Ints:
    """The most errors among so many rows that the exact test passes; -1 where none does."""
    most_T = binom.ppf(delta, tested_T, level)
    most_T = np.where(bdtr(most_T, tested_T, level) <= delta, most_T, most_T - 1)
    return np.asarray(most_T, dtype=np.int64)


def likely_rates(errors: float, rows: float) -> Doubles:
    """Equally likely true rates after so many errors in so many rows: quantiles of the posterior
    under Jeffreys' prior, shape (Q,).
    """
    chance_Q = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
    return np.asarray(beta.ppf(chance_Q, errors + 0.5, rows - errors + 0.5), dtype=np.float64)


def plan_row(
    goal: PromisedGoal,
    have: int | None,
    test: GoalTest,
    success: float = SUCCESS,
    rate_Q: Doubles | None = None,
) -> PlanRow:
    """The plan of one goal.

    have: labelled rows that it speaks of. rate_Q: equally likely true rates of the thresholds;
    None: ASSUMED of the level.
    """
    rate_Q = np.array([ASSUMED * test.level]) if rate_Q is None else rate_Q
    # As many of the rows at hand are tested in all but 1 - success of the splits.
    tested = None if have is None else int(binom.ppf(1.0 - success, have, test.tested))
    most = int(test.most_errors(np.array([tested]))[0]) if tested else -1
    likely = (
        test.rows_likely(float(rate_Q[0]), success)
        if len(rate_Q) == 1
        else test.rows_for(rate_Q, success)
    )
    return PlanRow(
        goal=goal.text,
        labels=goal.labels,
        have=have,
        allowed=most if most >= 0 else None,
        lowest=test.lowest(tested) if tested else None,
        needed=test.rows_without_errors(success),
        likely=likely,
        rate=float(rate_Q.mean()),
        success=success,
    )


def plan_labels(
    goals: Sequence[Goal],
    have: Mapping[str, int] | None = None,
    *,
    confidence: float = 0.95,
    tested: float = 1.0,
) -> tuple[PlanRow, ...]:
    """One row per promised goal, each for itself.

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
    asked = tuple(map(promised, goals))
    tests = [GoalTest(level=g.level, delta=1.0 - confidence, tested=tested) for g in asked]
    return tuple(
        plan_row(g, None if have is None else g.rows_told(have), test)
        for g, test in zip(asked, tests, strict=True)
    )


def rows_likely(rate: float, level: float, delta: float, power: float = SUCCESS) -> int | None:
    """The fewest rows that certify "rate <= level" with probability >= power when the rate is as
    given and all of them are tested.

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
    return rows_for_errors(_first(enough, low, high, 1000), level, delta)


def rows_for_errors(k: int, level: float, delta: float) -> int:
    """The fewest rows that certify rate <= level with k errors: the smallest n with BinCDF(k; n,
    level) <= delta.
    """
    low, high = k, max(2 * k, 1)
    while binomial_cdf(k, high, level) > delta:
        low, high = high, 2 * high
    return _first(lambda n: binomial_cdf(k, n, level) <= delta, low, high)


def _first(enough: Callable[[int], bool], low: int, high: int, close: int | None = None) -> int:
    """The first number above `low` that is enough, where `high` is; to within high / close."""
    while high - low > 1 + (0 if close is None else high // close):
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
