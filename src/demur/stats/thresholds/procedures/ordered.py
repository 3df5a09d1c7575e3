"""Goals whose rate may rise or fall as a threshold falls, such as precision: single vectors tested
in an order that is learnt on other rows.

1. A path from strict to lenient is learnt on some rows, as for monotone goals; where these allow
   few errors, its vectors have one threshold for all categories.
2. Vectors on it are put in order by their p-values on the same rows, the surest first.
3. On the other rows they are tested in that order, up to the first that fails (fixed-sequence
   testing, arXiv 2110.01052). Nothing is concluded of a vector that was not tested itself.
4. At one vector the rows refused are fixed, and given these the errors among independent rows are
   binomial, whatever share is refused. All goals are tested at the whole of delta: a wrong vector
   breaks some goal and must pass that goal's own test.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from demur.base.arrays import Bools
from demur.stats.thresholds.objective import linear_worth
from demur.stats.thresholds.problem import LearnTestSplit, Loss
from demur.stats.thresholds.procedures.search import (
    ThresholdPath,
    beside,
    goal_weights,
    lenient_path,
    one_threshold_path,
    split_rows,
)
from demur.stats.thresholds.procedures.task import (
    CertifyTask,
    Finding,
    NotCertified,
    certified,
)

_MOST_TESTED = 60  # vectors of a path
# With fewer errors to learn from, a path of thresholds per category fits their accidents: vectors
# that looked surest were certified in .39 of draws where those with one threshold were in .93.
_ENOUGH_ERRORS = 60
_TIES = 0.01  # the weight of the objective beside the goals: it only breaks ties


def certify_ordered(task: CertifyTask) -> Finding:
    """Test vectors of a learned path in a learned order, and take the certified one that serves the
    objective best.
    """
    split = split_rows(task.grouped, task.learn_share, task.seed, task.losses)
    task = task.divided(split)
    best: tuple[float, tuple[float, ...]] | None = None
    in_order = _in_order(task, split)
    for by_group in in_order:
        refused_N = task.grouped.refused(by_group)
        # A vector that leaves some goal without a row has a p-value of 1: it promises nothing.
        if _p_value(task, task.losses, by_group, split.test_N) > task.delta:
            break
        value = task.objective.value(refused_N)
        if best is None or value > best[0]:
            best = (value, by_group)
    if best is None:
        return NotCertified(split=split, delta=task.delta, surest=(in_order[0], in_order[0]))
    method = "learned order, single vectors tested (arXiv 2110.01052)"
    found = certified(task, best[1], split, method)
    return replace(found, surest=(best[1],) * 2) if isinstance(found, NotCertified) else found


def surest_vector(task: CertifyTask) -> tuple[Bools, Bools, Bools]:
    """The rows that the vector to be tested first refuses, twice, and those that would test it;
    shape (N,) each.
    """
    split = split_rows(task.grouped, task.learn_share, task.seed, task.losses)
    refused_N = task.grouped.refused(_in_order(task.divided(split), split)[0])
    return refused_N, refused_N, split.test_N


def _in_order(task: CertifyTask, split: LearnTestSplit) -> Sequence[tuple[float, ...]]:
    """Vectors of a learned path, the surest by the learning rows first; of these only such as serve
    the objective as well as the surest, or better.
    """
    path = _path(task, split)
    steps = np.unique(np.linspace(0, len(path.group_S), _MOST_TESTED).astype(int)).tolist()
    found = []
    for step in steps:
        by_group = path.at(step, len(task.grouped.groups))
        refused_N = task.grouped.refused(by_group)
        p_value = _p_value(task, task.learnt, by_group, split.learn_N)
        value = task.learning_objective.value(refused_N & split.learn_N)
        found.append((p_value, step, value, by_group))
    found.sort(key=lambda one: one[:2])
    return [by_group for _, _, value, by_group in found if value >= found[0][2]]


def _path(task: CertifyTask, split: LearnTestSplit) -> ThresholdPath:
    """The path whose vectors are tested. Counts of labels say how much of it is learnt."""
    learn_N = split.learn_N
    if min(_errors_allowed(task, loss, learn_N) for loss in task.learnt) < _ENOUGH_ERRORS:
        return one_threshold_path(task.grouped, learn_N, task.fixed)
    cost_N, needed_N = goal_weights(task.learnt, learn_N)
    worth_N = linear_worth(task.grouped, task.learning_objective, learn_N)
    return lenient_path(
        task.grouped,
        beside(cost_N, np.maximum(-worth_N, 0.0), _TIES),
        beside(needed_N, np.maximum(worth_N, 0.0), _TIES),
        task.fixed,
    )


def _errors_allowed(task: CertifyTask, loss: Loss, learn_N: Bools) -> float:
    """About the errors that a goal's level allows among the learning rows; of a rate among refused
    ones, where those to be refused are.
    """
    if loss.goal.monotone:
        return loss.level * loss.of(learn_N)
    right_N = learn_N & (task.grouped.rows.label_N != 0)
    return float(loss.level / (1.0 - loss.level) * loss.weight_N[right_N].sum())


def _p_value(
    task: CertifyTask, losses: Sequence[Loss], by_group: Sequence[float], part_N: Bools
) -> float:
    """The p-value of the goal that is least surely kept at these thresholds."""
    found = []
    for loss in losses:
        refused_N = _at_worst(task, loss, by_group)
        rows = loss.counted_under(refused_N, part_N)
        found.append(rows.p_value(loss.errors(refused_N), loss.level, task.delta))
    return max(found)


def _at_worst(task: CertifyTask, loss: Loss, by_group: Sequence[float]) -> Bools:
    """The decisions, within the tolerance of engines, that speak most against a goal."""
    if loss.goal.monotone:
        return task.grouped.at_worst(loss.when).refused(by_group)
    # every error that may be refused, and no right refusal that may be answered
    errors_N, right_N = (
        task.grouped.at_worst(when).refused(by_group) for when in ("refused", "answered")
    )
    return np.where(loss.could_err_N, errors_N, right_N)
