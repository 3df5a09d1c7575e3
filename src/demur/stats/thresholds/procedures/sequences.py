"""P1 and P4: an order of threshold vectors learnt on some rows, tested along on the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from demur.base.arrays import Bools, Doubles, Ints
from demur.base.errors import DataError, GoalError
from demur.stats.judging.any_look import anytime_needed
from demur.stats.thresholds.closed_form import too_few
from demur.stats.thresholds.objective import best_within, linear_worth
from demur.stats.thresholds.plan import SUCCESS, GoalTest
from demur.stats.thresholds.problem import GroupedScores, LearnTestSplit, Loss
from demur.stats.thresholds.procedures.anytime import anytime_split, anytime_test
from demur.stats.thresholds.procedures.search import (
    ThresholdPath,
    beside,
    candidates,
    cumulative,
    cut_grid,
    even_path,
    goal_weights,
    lenient_path,
    split_rows,
)
from demur.stats.thresholds.procedures.task import CertifyTask, Finding, NotCertified, certified
from demur.stats.thresholds.results import Uncertified
from demur.stats.units import RateTest, last_passing

# of the objective beside goals of both directions, where a path is learnt: least first
_WEIGHTS = (0.01, 0.1, 1.0)
_ANYTIME = "anytime-valid along a path (e-processes: arXiv 2210.01948)"
ORDER = "fixed-sequence testing of exact binomial p-values (arXiv 2110.01052)"


def certify_path(task: CertifyTask) -> Finding:
    """P1: a strict-to-lenient path of vectors learnt on one part of the rows, tested along on the
    other.

    Along the path errors of refusing only grow and errors of answering only fall. So the test of
    the former starts at the strict end and stops at the first step with more errors than its rows
    allow; that of the latter starts at the lenient end (P3 along a path: each side gets half of
    delta where there are both). Every step in between is certified, and so are all thresholds
    between those of its two ends: the best of these are taken. O(n log n).
    """
    split = split_rows(task.grouped, task.learn_share, task.seed, task.losses)
    task = task.divided(split)
    return _along(task, split, learned_path(task, split), "learned path")


def certify_even(task: CertifyTask) -> Finding:
    """A path that catches the same share of each category, learnt on rows that no goal speaks of,
    tested on all others.

    For goals that only refusals can break, where too few rows are at hand to learn a path on some
    of them: no row of the goals' own kind is spent on learning.
    """
    if any(loss.when == "answered" for loss in task.losses):
        raise GoalError(
            "method 'even' learns on rows to be refused, which a goal here speaks of", "use 'path'"
        )
    split = split_rows(task.grouped, 0.0, task.seed, task.losses)
    # Few labels by hand say more of what evenly means than many of a judge that errs.
    learn_N = split.learn_N & task.grouped.rows.by_hand_N
    return _along(task, split, even_path(task.grouped, learn_N, task.fixed), "even path")


def _along(task: CertifyTask, split: LearnTestSplit, path: ThresholdPath, name: str) -> Finding:
    """Test along a path, on the rows that it was not learnt on, and take the certified thresholds
    that serve the objective best.
    """
    delta = task.delta / len({loss.when for loss in task.losses})
    tests = _tests(task, split, delta)
    if not isinstance(tests, list):
        return tests
    method = f"{name}, {ORDER}"
    return _search_along(task, split, _capped(task, path, split, tests), tests, method)


def _search_along(
    task: CertifyTask,
    split: LearnTestSplit,
    path: ThresholdPath,
    tests: Sequence[RateTest],
    method: str,
) -> Finding:
    """The certified thresholds along a path that serve the objective best. tests: one a goal, each
    at its side's share of delta.
    """
    whens = {loss.when for loss in task.losses}
    delta, steps = task.delta / len(whens), len(path.group_S)
    # Steps first..last pass all tests: errors of refusing allow no step beyond `last`, errors of
    # answering none before `first`. Errors are nested along the path, so one search each.
    first, last = 0, steps
    first_NW = {when: path.first_step(task.grouped.at_worst(when)) for when in whens}
    for loss, test in zip(task.losses, tests, strict=True):
        first_N = first_NW[loss.when]
        if loss.when == "refused":
            last = min(last, _last_step(first_N, loss.could_err_N, test, steps))
        else:
            first = max(first, _first_step(first_N, loss.could_err_N, test, steps))
    # the sides do not meet, or thresholds that are set otherwise already break a goal
    if last < first:
        return NotCertified(split=split, delta=delta)
    # Errors of refusing are at most those of the lenient end wherever no threshold is lower, those
    # of answering at most those of the strict end wherever none is higher.
    groups = len(task.grouped.groups)
    by_group = best_within(
        task.grouped, task.objective, path.at(last, groups), path.at(first, groups)
    )
    return certified(task, by_group, split, method, delta=delta)


def certify_vectors(task: CertifyTask) -> Finding:
    """P4: single vectors chosen on one part of the rows, safest first, tested in that order on the
    other.

    For goals of both directions. The test stops at the first vector that fails; of those certified
    the one that serves the objective best is taken.
    """
    split = split_rows(task.grouped, task.learn_share, task.seed, task.losses)
    task = task.divided(split)
    tests = _tests(task, split, task.delta)
    if not isinstance(tests, list):
        return tests
    worth_N = linear_worth(task.grouped, task.learning_objective, split.learn_N)
    menu = cut_grid(task.grouped, task.learnt, worth_N, split, task.fixed)
    best: tuple[float, tuple[float, ...]] | None = None
    for thresholds in candidates(menu):
        refused_N = task.grouped.refused(thresholds)
        errors = [
            loss.errors(task.grouped.at_worst(loss.when).refused(thresholds))
            for loss in task.losses
        ]
        if not all(test.passes(error_N) for test, error_N in zip(tests, errors, strict=True)):
            break
        value = task.objective.value(refused_N)
        if best is None or value > best[0]:
            best = (value, thresholds)
    if best is None:
        return NotCertified(split=split, delta=task.delta)
    return certified(task, best[1], split, f"learned vectors, {ORDER}")


def certify_anytime(task: CertifyTask) -> Finding:
    """Test along a path that the first look fixed, by evidence that holds at every look.

    The path catches evenly, learnt on rows to be refused, where only refusals can break the goals;
    else it is learnt as that of `path`, on the first rows that came. One threshold needs no
    learning: its path is the order of the scores.
    """
    rows = task.grouped.rows
    if rows.traffic is not None or rows.hand_N is not None:
        beside = "another mix of traffic" if rows.traffic is not None else "labels by a judge"
        raise GoalError(
            f"method 'anytime' beside {beside}: it counts rows as they come, by their own labels",
            "use 'auto'",
        )
    among_N = np.any([loss.among_N for loss in task.losses], axis=0)
    split = anytime_split(rows, among_N, task.arrived, learns=_learns(task.grouped, task.losses))
    _require_whole(task, split)
    delta = task.delta / len({loss.when for loss in task.losses})
    tests = []
    for loss in task.losses:
        counted = loss.counted(split.test_N)
        test = anytime_test(counted, loss.level, delta, at_once=task.arrived is None)
        if test is None:
            return _too_few(task, loss, counted.units, delta)
        tests.append(test)
    found = _search_along(task, split, _fixed_path(task, split), tests, _ANYTIME)
    return replace(found, looks_again=True) if isinstance(found, NotCertified) else found


def _require_whole(task: CertifyTask, split: LearnTestSplit) -> None:
    """Raise GoalError where rows that fix the path stand for several requests, which would be
    missing from the tests: a popular prompt is a large part of traffic.
    """
    for loss in task.losses:
        own_N = loss.among_N & split.learn_N
        if several := int(own_N.sum() and (loss.weight_N[own_N] > 1).sum()):
            raise GoalError(
                f"method 'anytime': {several} of the {own_N.sum()} rows that fix the thresholds of "
                f"{loss.goal.text!r} stand for several requests, and the tests would miss these",
                "use 'auto', or one category: its thresholds have one order, no row fixes it",
            )


def _learns(grouped: GroupedScores, losses: Sequence[Loss]) -> bool:
    """Whether the path is learnt on rows that a goal speaks of: not that of one threshold, nor one
    that catches evenly.
    """
    return len(grouped.groups) > 1 and not all(loss.goal.of_answerable for loss in losses)


def _fixed_path(task: CertifyTask, split: LearnTestSplit) -> ThresholdPath:
    """The path that the first look fixes."""
    grouped = task.grouped
    # Whatever rows show them: the thresholds of one score have one order.
    if len(grouped.groups) == 1:
        return even_path(grouped, task.everyone, task.fixed)
    if not _learns(grouped, task.losses):
        if not (split.learn_N & (grouped.rows.label_N != 0)).any():
            raise DataError(
                "method 'anytime': no row of the first look is to be refused, nothing says which "
                "thresholds to test",
                "begin with some of every kind",
            )
        return even_path(grouped, split.learn_N, task.fixed)
    return learned_path(task, split, _WEIGHTS[:1])


def _too_few(task: CertifyTask, loss: Loss, tested: int, delta: float) -> Uncertified:
    """Name the rows that would do: those that fix the path, and those to pass without an error."""
    whole, needed = loss.counted(task.everyone).units, anytime_needed(loss.level, delta)
    divided = f"{tested} of them tested, at delta {delta:.3g}"
    return too_few(loss.goal, whole, needed + whole - tested, divided)


def _tests(task: CertifyTask, split: LearnTestSplit, delta: float) -> list[RateTest] | Uncertified:
    """The test of each goal on the test rows; or which goal has too few of them."""
    found = []
    for loss in task.losses:
        counted = loss.counted(split.test_N)
        test = counted.test(loss.level, delta)
        if test is None:
            whole = loss.counted(task.everyone).units
            plan = GoalTest(
                level=loss.level,
                delta=delta * counted.drawn_share,
                tested=1.0 if counted.units == whole else 1.0 - task.learn_share,
            )
            needed = plan.rows_without_errors(SUCCESS)
            divided = f"{counted.units} of them tested, at delta {delta:.3g}"
            return too_few(loss.goal, whole, needed, divided)
        found.append(test)
    return found


def _last_step(first_N: Ints, could_err_N: Bools, test: RateTest, steps: int) -> int:
    """The last step of a path whose refusals pass; -1 where even thresholds that are set otherwise
    fail.
    """

    def passes(step: int) -> bool:
        return test.passes(could_err_N & (first_N <= step))

    return last_passing(passes, steps) if passes(0) else -1


def _first_step(first_N: Ints, could_err_N: Bools, test: RateTest, steps: int) -> int:
    """The first step of a path whose answers pass; one more than there are where none does."""

    def passes(step: int) -> bool:
        return test.passes(could_err_N & (first_N > steps - step))

    return steps - last_passing(passes, steps) if passes(0) else steps + 1


def learned_path(
    task: CertifyTask, split: LearnTestSplit, weights: Sequence[float] = _WEIGHTS
) -> ThresholdPath:
    """The path that spends least of the goals that refusals break on those that answers break; on
    the objective where no goal is of one of these sorts.

    What the objective says of rows that no goal bounds only breaks ties, because all thresholds
    between the ends of a path are free. Where goals of both directions leave little between the
    ends, it may weigh more, if that serves the objective by the learning rows. weights: that it may
    have; the path of a single one depends on learning rows alone.
    """
    learn_N = split.learn_N
    cost_N, needed_N = goal_weights(task.learnt, learn_N)
    worth_N = linear_worth(task.grouped, task.learning_objective, learn_N)
    loss_N, gain_N = np.maximum(-worth_N, 0.0), np.maximum(worth_N, 0.0)
    both = cost_N.any() and needed_N.any()
    open_ = ((cost_N == 0) & (loss_N > 0)).any() or ((needed_N == 0) & (gain_N > 0)).any()
    paths = [
        lenient_path(
            task.grouped,
            beside(cost_N, loss_N, weight),
            beside(needed_N, gain_N, weight),
            task.fixed,
        )
        for weight in (weights if both and open_ else weights[:1])
    ]
    # The first of equals: the one that takes most care of the goals.
    return max(paths, key=lambda path: _outlook(task, split, path, worth_N) if paths[1:] else 0.0)


def _outlook(
    task: CertifyTask, split: LearnTestSplit, path: ThresholdPath, worth_N: Doubles
) -> float:
    """The most worth of the steps that will probably be certified, by the learning rows; -inf where
    there is none.
    """
    first_N, steps = path.first_step(task.grouped), len(path.group_S)
    hopeful_S = np.ones(steps + 1, dtype=bool)
    for loss in task.learnt:
        own_N = np.where(loss.could_err_N & split.learn_N, loss.weight_N, 0.0)
        refused_S = cumulative(first_N, steps, own_N)
        errors_S = refused_S if loss.when == "refused" else own_N.sum() - refused_S
        # Two standard errors below the level on the rows that it will be tested on.
        tested = loss.counted(split.test_N).units
        limit = loss.level - 2.0 * np.sqrt(loss.level / max(tested, 1))
        hopeful_S &= errors_S <= limit * loss.of(split.learn_N)
    value_S = cumulative(first_N, steps, worth_N)
    return float(np.where(hopeful_S, value_S, -np.inf).max())


def _capped(
    task: CertifyTask, path: ThresholdPath, split: LearnTestSplit, tests: Sequence[RateTest]
) -> ThresholdPath:
    """The path without steps that would, by the learning rows, break a goal about some categories
    only.

    Otherwise that goal would end the test for all categories.
    """
    grouped = task.grouped
    for loss, test in zip(task.learnt, tests, strict=True):
        touched = loss.groups(grouped)
        if len(touched) == len(grouped.groups) or loss.when == "answered":
            continue
        first_N = path.first_step(grouped)
        own_N = np.where(loss.could_err_N & split.learn_N, loss.weight_N, 0.0)
        errors_S = cumulative(first_N, len(path.group_S), own_N)
        # The errors allowed on the test rows, less one standard error, scaled to the learning rows.
        scale = loss.of(split.learn_N) / loss.of(split.test_N)
        limit = max(test.most - np.sqrt(test.most + 1.0), 0.0) * scale
        broken_S = np.isin(path.group_S, touched) & (errors_S[1:] > limit)
        path = ThresholdPath(
            group_S=path.group_S[~broken_S],
            threshold_S=path.threshold_S[~broken_S],
            fixed=path.fixed,
        )
    return path
