"""How many rows would make a procedure certify, and with what probability.

1. What rows say of the rates in reach: a posterior of the rates at the thresholds that come closest
   to all levels. Where a procedure learns its thresholds, each part of the rows is counted at the
   thresholds that the other part gives, because thresholds flatter the rows that they are learnt
   on.
2. The number of rows is stated with which the procedure's tests pass with probability SUCCESS,
   averaged over that posterior (demur.stats.thresholds.plan).
3. Where no number does, because the rates may well be above the levels, the rows cannot tell. Then
   the plan rests on assumed rates, and says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.stats import binom

from demur.base.arrays import Bools, Doubles
from demur.core.goals.promised import PromisedGoal
from demur.core.threshold import NEVER
from demur.stats.thresholds.plan import (
    BAND,
    DIVIDING,
    LEARNING,
    ORDERED,
    SUCCESS,
    WRONG,
    GoalTest,
    MethodPlan,
    likely_rates,
)
from demur.stats.thresholds.problem import NO_GROUP, LearnTestSplit, Loss
from demur.stats.thresholds.procedures.search import closest_thresholds, split_rows
from demur.stats.thresholds.procedures.task import (
    CertifyTask,
    NotCertified,
    Tried,
    shares_of,
)
from demur.stats.thresholds.results import Failure, Outlook, RowsWanted, Uncertified

_PLANNED = ("shared", "even", *(m for m in LEARNING if m not in (ORDERED, BAND)), *DIVIDING)
_CARRIED = 0.97  # of draws in which a goal's test is passed: its rows are enough
_ASSUMED = (0.5, 0.8, 0.9, 0.95)  # of the levels: rates that plans assume, the first that says more


def with_outlook(tried: Tried, failure: Failure) -> Failure:
    """A failure with the number of rows that would do."""
    # Beside a judge's labels a path may be learnt on any of the rows; bets on labels as they come,
    # and tests under another mix, are not binomial: nothing is planned there.
    if isinstance(tried.found, NotCertified) and tried.found.surest is not None:
        return _with_vectors(tried.task, tried.found, failure)
    planned = tried.method in _PLANNED and not tried.task.by_hand
    planned &= all(loss.traffic is None for loss in tried.task.losses)
    if not isinstance(failure, Uncertified) or not planned:
        return failure
    outlook = outlook_of(tried)
    if outlook is None or not outlook.bounded or failure.rows_needed is not None:
        return replace(failure, outlook=outlook)
    own = [w.needed for w in outlook.short if w.goal == failure.blocking]
    return replace(failure, rows_needed=own[0] if own else None, outlook=outlook)


def _with_vectors(task: CertifyTask, found: NotCertified, failure: Failure) -> Failure:
    """The failure of vectors that were tested one by one, with the rows that would do."""
    if not isinstance(failure, Uncertified) or found.vacuous or found.surest is None:
        return failure
    task = task.divided(found.split)
    refused_N, held_N = (task.grouped.refused(by_group) for by_group in found.surest)
    outlook = outlook_of_vectors(task, refused_N, found.split.test_N, refused_N | held_N)
    return replace(failure, outlook=outlook)


def outlook_of(tried: Tried) -> Outlook | None:
    """The rows that would do: by what these rows say of the rates, else by assumed ones."""
    task, losses = tried.task, tried.task.losses
    counted = [loss.counted(task.everyone) for loss in losses]
    rows = [c.units for c in counted]
    plan = MethodPlan(method=tried.method, delta=task.delta, learn_share=task.learn_share)
    tests = plan.tests(
        [loss.goal for loss in losses],
        [shares_of(task, loss.groups(task.grouped)) for loss in losses],
        [c.drawn_share for c in counted],
    )
    return _by_rows(tried, tests, rows) or _assumed(losses, tests, rows)


def _by_rows(tried: Tried, tests: Sequence[GoalTest], rows: Sequence[int]) -> Outlook | None:
    """The rows with which all goals are certified with probability SUCCESS, averaged over what
    these rows leave open of the rates at the thresholds that come closest; None if no number does.
    """
    task = tried.task
    closest, rate_LQ = rates_in_reach(tried.method, task)
    if tried.method in DIVIDING:
        tests = [
            _of_one_category(task, loss, t, closest)
            for loss, t in zip(task.losses, tests, strict=True)
        ]
    return outlook_at([loss.goal for loss in task.losses], tests, rows, rate_LQ)


def rates_in_reach(method: str, task: CertifyTask) -> tuple[tuple[float, ...], list[Doubles]]:
    """The thresholds that come closest to all levels, and each goal's likely true rates there."""
    closest, refused_N = _closest_of(method, task)
    everything = not any(closest) and bool((task.grouped.group_N != NO_GROUP).all())
    return closest, [
        # Where all rows are refused, whatever they are, none is missed.
        np.zeros(1) if everything and loss.when == "answered" else _rates(loss, refused_N)
        for loss in task.losses
    ]


def outlook_of_vectors(
    task: CertifyTask, refused_N: Bools, part_N: Bools, held_N: Bools | None = None
) -> Outlook | None:
    """The rows with which vectors that were chosen on other rows would pass, by their errors on
    these, else at assumed rates; None where they leave a goal without a row.
    """
    tests, rows, rate_LQ = [], [], []
    for loss in task.losses:
        counted = loss.counted_under(refused_N, part_N)
        whole = loss.units
        if loss.traffic is not None or not counted.units:
            return None
        errors = round(float(counted.shares(loss.errors(refused_N, held_N)).sum()))
        tests.append(
            GoalTest(
                level=loss.level,
                delta=task.delta * counted.drawn_share,
                # of all rows, those that are tested, and count under such decisions
                tested=min(1.0, counted.units / whole),
            )
        )
        rows.append(whole)
        rate_LQ.append(likely_rates(errors, counted.units))
    by_rows = outlook_at([loss.goal for loss in task.losses], tests, rows, rate_LQ)
    return by_rows or _assumed(task.losses, tests, rows)


def outlook_at(
    goals: Sequence[PromisedGoal],
    tests: Sequence[GoalTest],
    rows: Sequence[int],
    rate_LQ: Sequence[Doubles],
) -> Outlook | None:
    """The rows with which all goals pass with probability SUCCESS, averaged over likely rates; None
    if no number does. rows: at hand.
    """
    passed = [
        float(test.passing(n, rate_Q).mean())
        for test, n, rate_Q in zip(tests, rows, rate_LQ, strict=True)
    ]
    # Goals that the rows at hand nearly always carry keep their rows; what a plan may fail with is
    # divided over the others.
    short = [at for at, share in enumerate(passed) if share < _CARRIED]
    missed = sum(1.0 - share for at, share in enumerate(passed) if at not in short)
    if not short or missed >= 1.0 - SUCCESS:
        return None
    one = 1.0 - (1.0 - SUCCESS - missed) / len(short)
    wanted = []
    for at, (goal, n) in enumerate(zip(goals, rows, strict=True)):
        needed = tests[at].rows_for(rate_LQ[at], one) if at in short else n
        if needed is None:
            return None
        rate = float(rate_LQ[at].mean())
        wanted.append(RowsWanted(goal=goal, rows=n, needed=max(n, needed), rate=rate))
    found = Outlook(success=SUCCESS, bounded=True, wanted=tuple(wanted))
    return found if found.short else None


def _closest_of(method: str, task: CertifyTask) -> tuple[tuple[float, ...], Bools]:
    """The thresholds that come closest, and the rows that are refused at them, shape (N,)."""
    splits = [task.on_all_rows]
    if method in (*LEARNING, "anytime"):
        # Thresholds learnt on some rows look better there than they are: each part of the rows is
        # decided at the thresholds that the other gives.
        one = split_rows(task.grouped, task.learn_share, task.seed, task.losses)
        splits = [one, LearnTestSplit(learn_N=one.test_N, test_N=one.learn_N)]
    closest = [closest_thresholds(task.grouped, task.losses, split, task.fixed) for split in splits]
    refused_N = np.zeros(len(task.grouped.logq_N), dtype=bool)
    for split, by_group in zip(splits, closest, strict=True):
        refused_N |= task.grouped.refused(by_group) & split.test_N
    return closest[0], refused_N


def _rates(loss: Loss, refused_N: Bools) -> Doubles:
    """Equally likely true rates of a goal where these rows are refused, by one row of each unit."""
    drawn = loss.one_per_unit(np.ones(len(refused_N), dtype=bool))
    return likely_rates(int(drawn.errors(refused_N).sum()), int(drawn.among_N.sum()))


def _of_one_category(
    task: CertifyTask, loss: Loss, test: GoalTest, by_group: Sequence[float]
) -> GoalTest:
    """The test of the one category that these thresholds refuse with, at its share of level and
    delta.
    """
    touched = loss.groups(task.grouped)
    own = [
        share
        for g, share in zip(touched, shares_of(task, touched), strict=True)
        if by_group[g] < NEVER
    ]
    share = own[0] if own else 1.0
    return replace(test, level=test.level * share, delta=test.delta * share, tests=1, share=1.0)


def _wanted(
    losses: Sequence[Loss],
    tests: Sequence[GoalTest],
    rows: Sequence[int],
    part: float,
    success: float,
) -> tuple[RowsWanted, ...] | None:
    """Per goal the rows that pass with this probability at this part of its level; None if no
    number does.
    """
    found = []
    for loss, test, n in zip(losses, tests, rows, strict=True):
        rate = part * loss.level
        # More rows than at hand are asked for only where these do not carry the rate.
        needed = (
            n
            if test.passing(n, np.array([rate]))[0] >= success
            else test.rows_likely(rate, success)
        )
        if needed is None:
            return None
        found.append(RowsWanted(goal=loss.goal, rows=n, needed=needed, rate=rate))
    return tuple(found)


def _assumed(
    losses: Sequence[Loss], tests: Sequence[GoalTest], rows: Sequence[int]
) -> Outlook | None:
    """The rows that would tell, at the first assumed rates for which those at hand are too few."""
    one = 1.0 - (1.0 - SUCCESS) / len(losses)
    for part in _ASSUMED:
        wanted = _wanted(losses, tests, rows, part, one)
        if wanted is None:
            return None
        if all(w.needed <= w.rows for w in wanted):
            continue
        # Goals of one direction are kept by refusing nothing, or all: never infeasible. Nor is
        # that ever said of a rate among refused requests.
        monotone = all(loss.goal.monotone for loss in losses)
        if len({loss.when for loss in losses}) == 1 or not monotone:
            return Outlook(success=SUCCESS, bounded=False, wanted=wanted)
        refuted = tuple(min(1.0, loss.level / part) for loss in losses)
        told = tuple(
            replace(w, needed=max(w.needed, _rows_refuting(w.goal.level, rate, len(losses))))
            for w, rate in zip(wanted, refuted, strict=True)
        )
        return Outlook(success=SUCCESS, bounded=False, wanted=told, refuted=refuted)
    return None


def _rows_refuting(level: float, rate: float, goals: int) -> int:
    """Rows on which errors at this rate exceed the quantile of the level with the probability of a
    plan.
    """
    rows = 8
    while binom.cdf(binom.ppf(1.0 - WRONG / goals, rows, level), rows, rate) > 1.0 - SUCCESS:
        rows = int(np.ceil(1.1 * rows))
    return rows
