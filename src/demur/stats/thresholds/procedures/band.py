"""Two thresholds per category: from the upper one on requests are refused, from the lower one on
they are deferred.

1. One path from strict to lenient is learnt on some rows, as for goals without a band. A pair of
   its steps gives a threshold vector each: refusals by the first, deferrals by the second.
2. By the same rows pairs are put in order: of the pairs that keep every level with some margin the
   one that serves the objective best, for ever smaller margins.
3. On the other rows they are tested in that order, up to the first that fails (fixed-sequence
   testing, arXiv 2110.01052). At one pair all goals are tested at the whole of delta: a wrong pair
   breaks some goal and must pass that goal's own test. Nothing is concluded of another pair.
4. A false refusal counts refusals, a missed refusal what is answered, a deferral what lies between
   (selective risk). Categories that do not defer have one threshold.

Shapes: N rows, S steps of the path, T and D steps that are looked at for refusals and deferrals.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from demur.base.arrays import Bools, Doubles, Ints
from demur.stats.thresholds.objective import linear_worth
from demur.stats.thresholds.problem import GroupedScores, LearnTestSplit, Loss, Objective
from demur.stats.thresholds.procedures.search import (
    ThresholdPath,
    beside,
    goal_weights,
    lenient_path,
    split_rows,
)
from demur.stats.thresholds.procedures.task import (
    CertifyTask,
    Finding,
    NotCertified,
    evidence_of,
)
from demur.stats.thresholds.results import Certified

_EVENLY = 40  # steps that are looked at, by rows refused
_NEAR = 30  # and by the errors of each goal, up to _BEYOND of its level
_BEYOND = 1.5
_MARGINS = 24  # pairs that are tested
_TIES = 0.01  # the weight of the objective beside the goals, where the path is learnt


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Pair:
    """A threshold per group for refusals, and one for what is not answered."""

    refused: tuple[float, ...]
    held: tuple[float, ...]

    def decided(self, grouped: GroupedScores) -> tuple[Bools, Bools]:
        """The rows refused, and those refused or deferred; shape (N,) each."""
        refused_N = grouped.refused(self.refused)
        return refused_N, refused_N | grouped.refused(self.held)

    def at_worst(self, grouped: GroupedScores, loss: Loss) -> tuple[Bools, Bools]:
        """The same with the scores, within the tolerance of engines, that err the most."""
        low, high = grouped.at_worst("answered"), grouped.at_worst("refused")
        if not loss.goal.monotone:
            # every error that may be refused, and no right refusal that may be answered
            refused_N = np.where(
                loss.could_err_N, high.refused(self.refused), low.refused(self.refused)
            )
            return refused_N, refused_N
        if loss.when == "refused":
            return self.decided(high)
        if loss.when == "answered":
            return self.decided(low)
        return low.refused(self.refused), high.refused(self.held)


def certify_band(task: CertifyTask) -> Finding:
    """Test pairs of vectors of a learned path in a learned order, and take the certified one that
    serves the objective best.
    """
    split = split_rows(task.grouped, task.learn_share, task.seed, task.losses)
    task = task.divided(split)
    best: tuple[float, Pair] | None = None
    in_order = _in_order(task, split)
    for pair in in_order:
        if _p_value(task, pair, split.test_N) > task.delta:
            break
        refused_N, held_N = pair.decided(task.grouped)
        value = _value(task, refused_N, held_N)
        if best is None or value > best[0]:
            best = (value, pair)
    if best is None:
        surest = (in_order[0].refused, in_order[0].held)
        return NotCertified(split=split, delta=task.delta, surest=surest)
    refused_N, held_N = best[1].decided(task.grouped)
    if task.objective.is_vacuous(held_N):
        return NotCertified(
            split=split,
            delta=task.delta,
            vacuous=True,
            surest=(best[1].refused, best[1].held),
        )
    return Certified(
        thresholds=task.grouped.thresholds(best[1].refused),
        held_from=task.grouped.thresholds(best[1].held),
        evidence=evidence_of(task.losses, refused_N, split.test_N, task.delta, held_N),
        method=task.grouped.method(
            "learned band, pairs of thresholds tested in order (arXiv 2110.01052)"
        ),
        tested_at=task.delta,
    )


def surest_pair(task: CertifyTask) -> tuple[Bools, Bools, Bools]:
    """The rows that the pair to be tested first refuses, those that it refuses or defers, and those
    that would test it; shape (N,) each.
    """
    split = split_rows(task.grouped, task.learn_share, task.seed, task.losses)
    pair = _in_order(task.divided(split), split)[0]
    return *pair.decided(task.grouped), split.test_N


def _p_value(task: CertifyTask, pair: Pair, part_N: Bools) -> float:
    """The p-value of the goal that is least surely kept by this pair."""
    found = []
    for loss in task.losses:
        refused_N, held_N = pair.at_worst(task.grouped, loss)
        rows = loss.counted_under(refused_N, part_N)
        found.append(rows.p_value(loss.errors(refused_N, held_N), loss.level, task.delta))
    return max(found)


def _in_order(task: CertifyTask, split: LearnTestSplit) -> list[Pair]:
    """The pairs to test, by the learning rows: the surest first, then the best for ever smaller
    margins.
    """
    path = _path(task, split)
    grid = _grid(task, path, split)
    found: list[tuple[int, int]] = []
    surest = float(grid.margin_TD.max())
    for least in np.linspace(surest, min(surest, 0.0), _MARGINS):
        worth_TD = np.where(grid.margin_TD >= least, grid.worth_TD, -np.inf)
        at = np.unravel_index(int(worth_TD.argmax()), worth_TD.shape)
        steps = (int(grid.step_T[at[0]]), int(grid.step_D[at[1]]))
        if steps not in found:
            found.append(steps)
    return [_pair(task, path, *steps) for steps in found]


def _pair(task: CertifyTask, path: ThresholdPath, refusing: int, holding: int) -> Pair:
    groups = len(task.grouped.groups)
    refused, held = path.at(refusing, groups), path.at(holding, groups)
    deferring = task.grouped.deferring
    mixed = tuple(held[g] if g in deferring else refused[g] for g in range(groups))
    return Pair(refused=refused, held=mixed)


def _path(task: CertifyTask, split: LearnTestSplit) -> ThresholdPath:
    """The path that spends least of the goals that refusals break on those that answers break."""
    two_way = [loss for loss in task.learnt if loss.when != "deferred"]
    cost_N, needed_N = goal_weights(two_way, split.learn_N)
    worth_N = linear_worth(task.grouped, task.learning_objective, split.learn_N)
    return lenient_path(
        task.grouped,
        beside(cost_N, np.maximum(-worth_N, 0.0), _TIES),
        beside(needed_N, np.maximum(worth_N, 0.0), _TIES),
        task.fixed,
    )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Grid:
    """Pairs of steps, and what the learning rows say of each; no pair whose second step is the
    earlier one keeps any margin.
    """

    step_T: Ints
    step_D: Ints
    # the smallest distance of a rate below its level, in standard errors of the test rows
    margin_TD: Doubles
    worth_TD: Doubles


def _grid(task: CertifyTask, path: ThresholdPath, split: LearnTestSplit) -> _Grid:
    grouped, learn_N = task.grouped, split.learn_N
    first_N, steps = path.first_step(grouped), len(path.group_S)
    counts = _StepCounts(
        first_N=first_N,
        steps=steps,
        banded_N=np.isin(grouped.group_N, sorted(grouped.deferring)),
    )
    step_T = step_D = counts.evenly(learn_N)
    for loss in task.learnt:
        own_N = np.where(loss.could_err_N & learn_N, loss.weight_N, 0.0)
        near = counts.near(own_N, _BEYOND * loss.level * max(loss.of(learn_N), 1), loss)
        if loss.when == "refused":
            step_T = np.union1d(step_T, near)
        else:
            step_D = np.union1d(step_D, near)
    margins = []
    for loss in task.learnt:
        tested = max(loss.of(split.test_N), 1)
        spread = np.sqrt(loss.level * (1.0 - loss.level) / tested)
        rate_TD = counts.rates(loss, learn_N, step_T, step_D)
        # nothing is known where nothing is counted
        margins.append(np.nan_to_num((loss.level - rate_TD) / spread, nan=-np.inf))
    ordered_TD = step_D[None, :] >= step_T[:, None]
    margin_TD = np.where(ordered_TD, np.min(margins, axis=0), -np.inf)
    worth_TD = counts.worths(task, learn_N, step_T, step_D)
    return _Grid(step_T=step_T, step_D=step_D, margin_TD=margin_TD, worth_TD=worth_TD)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _StepCounts:
    """Sums over the rows that are refused, or not answered, after so many steps of a path.

    Beside locked categories a row may be held by another group than its own: the sums are then
    close, which the order of the tests may be, and the tests are not.
    """

    first_N: Ints  # the first step that reaches each row
    steps: int
    banded_N: Bools  # rows of groups that defer

    def summed(self, weight_N: Doubles) -> Doubles:
        """The summed weight of rows that are reached after 0, 1, ..., `steps` steps."""
        sums = np.bincount(self.first_N, weights=weight_N, minlength=self.steps + 2)
        return np.asarray(np.cumsum(sums)[: self.steps + 1], dtype=np.float64)

    def evenly(self, part_N: Bools) -> Ints:
        """Steps at which even shares of these rows are reached, both ends among them."""
        return self._steps_at(self.summed(part_N.astype(np.float64)), _EVENLY)

    def near(self, own_N: Doubles, most: float, loss: Loss) -> Ints:
        """Steps at even numbers of errors of a goal, from none to so many."""
        reached_S = self.summed(own_N)
        if loss.when == "answered":
            # errors are what is not reached
            left_S = reached_S[-1] + own_N[self.first_N > self.steps].sum() - reached_S
            wanted = np.linspace(0.0, min(most, left_S[0]), _NEAR)
            at = np.searchsorted(-left_S, -wanted, side="left")
        else:
            wanted = np.linspace(0.0, min(most, reached_S[-1]), _NEAR)
            at = np.searchsorted(reached_S, wanted, side="right") - 1
        return np.unique(np.clip(at, 0, self.steps))

    def held(self, weight_N: Doubles, step_T: Ints, step_D: Ints) -> Doubles:
        """The summed weight of rows not answered, (T, D): banded ones by the second step."""
        banded_S = self.summed(np.where(self.banded_N, weight_N, 0.0))
        others_S = self.summed(np.where(self.banded_N, 0.0, weight_N))
        return others_S[step_T][:, None] + banded_S[step_D][None, :]

    def rates(self, loss: Loss, learn_N: Bools, step_T: Ints, step_D: Ints) -> Doubles:
        """The rate of a goal on the learning rows at each pair of steps, (T, D)."""
        own_N = np.where(loss.could_err_N & learn_N, loss.weight_N, 0.0)
        refused_T1 = self.summed(own_N)[step_T][:, None]
        errors_TD = np.broadcast_to(refused_T1, (len(step_T), len(step_D)))
        if loss.when != "refused":
            held_TD = self.held(own_N, step_T, step_D)
            errors_TD = own_N.sum() - held_TD if loss.when == "answered" else held_TD - refused_T1
        if loss.goal.monotone:
            return np.asarray(errors_TD / max(loss.of(learn_N), 1), dtype=np.float64)
        all_N = np.ones(len(learn_N), dtype=bool)
        among_N = np.where(loss.denominator(all_N) & learn_N, loss.weight_N, 0.0)
        of_T1 = self.summed(among_N)[step_T][:, None]
        return np.where(of_T1 > 0, errors_TD / np.maximum(of_T1, 1e-12), np.nan)

    def worths(self, task: CertifyTask, learn_N: Bools, step_T: Ints, step_D: Ints) -> Doubles:
        """What each pair is worth on the learning rows, (T, D): see _value."""
        objective = task.learning_objective
        gain_N, cost_N, defer_N = _weights(objective)
        part_N = learn_N.astype(np.float64)
        reached_T1 = self.summed(defer_N * part_N)[step_T][:, None]
        deferred_TD = self.held(defer_N * part_N, step_T, step_D) - reached_T1
        if objective.beta2 is None:
            cost_T1 = self.summed(cost_N * part_N)[step_T][:, None]
            return self.held(gain_N * part_N, step_T, step_D) - cost_T1 - deferred_TD
        value_T = [objective.value((self.first_N <= step) & learn_N) for step in step_T.tolist()]
        return np.array(value_T)[:, None] - deferred_TD

    @staticmethod
    def _steps_at(reached_S: Doubles, count: int) -> Ints:
        wanted = np.linspace(reached_S[0], reached_S[-1], count)
        at = np.searchsorted(reached_S, wanted, side="left")
        return np.unique(np.concatenate([[0, len(reached_S) - 1], at]))


def _weights(objective: Objective) -> tuple[Doubles, Doubles, Doubles]:
    """What it gains not to answer each row, what it costs to refuse it, and to defer it.

    A deferral costs more than anything that goals bound already, and less than what they leave
    open; beside an F-beta it only breaks ties.
    """
    worth_N = objective.worth_N
    ones_N = np.ones(len(worth_N))
    requests_N = ones_N if objective.count_N is None else objective.count_N.astype(np.float64)
    if objective.beta2 is not None:
        each_N = 1e-3 * requests_N / max(float(requests_N.sum()), 1.0)
        return np.zeros(0), np.zeros(0), np.asarray(each_N, dtype=np.float64)
    # a request's worth: bounded ones are all below 1 / 2
    own_N = np.abs(worth_N) / requests_N
    bounded_N = own_N[(own_N > 0.0) & (own_N < 0.5)]
    each = 2.0 * float(bounded_N.max()) if len(bounded_N) else 1e-6 * float(own_N.max(initial=1.0))
    return np.maximum(worth_N, 0.0), np.maximum(-worth_N, 0.0), each * requests_N


def _value(task: CertifyTask, refused_N: Bools, held_N: Bools) -> float:
    """What decisions are worth: the gain of what is not answered, less the cost of refusals, less
    that of deferrals. An F-beta is that of refusals.
    """
    gain_N, cost_N, defer_N = _weights(task.objective)
    deferred = float(defer_N[held_N & ~refused_N].sum())
    if task.objective.beta2 is not None:
        return task.objective.value(refused_N) - deferred
    return float(gain_N[held_N].sum() - cost_N[refused_N].sum()) - deferred
