"""Target refusal rates. Traffic needs no labels for them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from demur.base.arrays import Bools
from demur.base.errors import GoalError, GoalInfeasible
from demur.core.goals.goal import Goal
from demur.core.goals.kinds import TargetRate
from demur.core.goals.promised import RefusalRate
from demur.core.policy import Policy
from demur.core.rates import Rate, rows_needed
from demur.core.threshold import NEVER
from demur.stats.labelled import LabelledScores
from demur.stats.slices import expand_slices
from demur.stats.thresholds.closed_form import lowest_keeping
from demur.stats.thresholds.exact import exact
from demur.stats.thresholds.losses import STEERABLE, Board, board_of, check_categories
from demur.stats.thresholds.sweep import Sweep, sweep_of

TrafficGoal = TargetRate | RefusalRate  # what can be met on traffic without labels


def cut_at_rate(sweep: Sweep, n: int, goal: TargetRate) -> int:
    """Index of the most lenient cut that refuses at most the asked share of n rows, rounded down.

    Raises GoalInfeasible where ties or too few rows leave only "never", or where fewer rows than
    asked can be refused at all: under rule `heaviest` a category refuses only rows that it is the
    heaviest of.
    """
    level = exact(goal.level)
    allowed = math.floor(level * n)
    if (reach := int(sweep.cut_J[-1])) < allowed:
        raise GoalInfeasible(
            f"goal {goal.text!r}: it asks for {allowed} of {n} rows, and even without a threshold "
            f"{reach} are refused",
            f"ask for at most {math.floor(1000 * reach / n) / 10:g}%, the highest rate in reach "
            "on these rows",
        )
    if (always := int(sweep.cut_J[0])) > allowed:
        raise GoalInfeasible(
            f"goal {goal.text!r}: {allowed} of {n} rows may be refused, and {always} are in doubt "
            "at every threshold",
            "ask for a higher rate, or train a model that puts its probability on the control "
            "tokens",
        )
    cut = int((sweep.cut_J <= allowed).sum()) - 1
    if cut == 0 and level > 0:
        what = (
            f"the strictest threshold refuses {sweep.cut_J[1]}"
            if len(sweep.cut_J) > 1
            else "none can be"
        )
        raise GoalInfeasible(
            f"goal {goal.text!r}: {allowed} of {n} rows may be refused, {what}",
            f"calibrate on at least {math.ceil(1 / level)} rows without tied scores, or ask for a "
            "higher rate",
        )
    return cut


def rates_of_categories(goals: Sequence[Goal], board: Board, part_N: Bools) -> dict[int, float]:
    """Thresholds of the categories with a rate to be met, by group, set on a part of the rows."""
    found = {}
    for goal in goals:
        if not isinstance(goal, TargetRate):
            continue
        if goal.category is None or (goal.category,) not in board.groups:
            raise GoalError(
                f"goal {goal.text!r} cannot be met beside others",
                "ask for the rate of single categories under rule 'heaviest', or for "
                "'refusal_rate <= ...'",
            )
        g = board.groups.index((goal.category,))
        compared_N = board.compared_with(g)
        own_N = part_N & (compared_N > -np.inf)
        sweep = sweep_of(compared_N[own_N].astype(np.float32), board.rows.label_N[own_N])
        found[g] = float(sweep.threshold_J[cut_at_rate(sweep, int(part_N.sum()), goal)])
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Met:
    """A goal that is met on traffic."""

    goal: TrafficGoal
    categories: tuple[str, ...]  # whose threshold it is
    threshold: float
    rate: Rate  # refused at it, among all rows


def meet_rates(
    goals: Sequence[Goal], template: Policy, unlabelled: LabelledScores, confidence: float
) -> list[Met]:
    """The thresholds that meet refusal rates on traffic, whose labels are not looked at.

    "refusal_rate = x": the most lenient threshold that refuses at most this share of the traffic at
    hand. "refusal_rate <= x": of all such traffic, with the confidence, for all these goals
    together. Of all categories (one shared threshold) or, under rule `heaviest`, per category; not
    both. Raises GoalError on other goals, GoalInfeasible where a rate cannot be met.
    """
    _check(goals, template)
    asked = [g for g in expand_slices(goals, template, unlabelled) if isinstance(g, TrafficGoal)]
    whole = any(goal.category is None for goal in asked)
    board = board_of(template, unlabelled, shared=whole)
    delta = float(1 - exact(confidence)) / max(sum(goal.promised for goal in asked), 1)
    found = []
    for goal in asked:
        g, threshold = _group(goal, board), _threshold(goal, board, delta)
        rate = Rate(hits=_at_or_above(board, g, threshold), of=len(board.logq_N))
        found.append(Met(goal=goal, categories=board.groups[g], threshold=threshold, rate=rate))
    return found


def _check(goals: Sequence[Goal], template: Policy) -> None:
    if not goals:
        raise GoalError("no goal is given", "such as 'refusal_rate = 10%'")
    for goal in goals:
        if not isinstance(goal, TrafficGoal) or len(goal.categories) > 1:
            raise GoalError(
                f"goal {goal.text!r} needs labels", "unlabelled traffic can meet refusal rates only"
            )
        if isinstance(goal, RefusalRate) and (goal.where or goal.every in ("kind", "source")):
            raise GoalError(
                f"goal {goal.text!r} speaks of a slice, and unlabelled traffic says no kind and "
                "no source",
                "ask for rates of all traffic, or of single categories",
            )
    if len(goals) > 1 and any(goal.category is None and not _each(goal) for goal in goals):
        raise GoalError(
            "a total rate beside rates of categories", "ask for the total, or for each category"
        )
    if template.rule not in STEERABLE or (template.rule != "heaviest" and goals[0].category):
        raise GoalError(
            f"rule {template.rule!r} has no threshold for {goals[0].text!r}", "use rule 'heaviest'"
        )


def _each(goal: Goal) -> bool:
    """Whether it asks for one promise for each category."""
    return isinstance(goal, RefusalRate) and goal.every is not None


def _group(goal: TargetRate | RefusalRate, board: Board) -> int:
    if goal.category is None:
        return 0
    check_categories(goal, board.template)
    return board.groups.index((goal.category,))


def _at_or_above(board: Board, g: int, threshold: float) -> int:
    with np.errstate(divide="ignore"):
        return int((board.compared_with(g) >= np.log(threshold)).sum())


def _threshold(goal: TargetRate | RefusalRate, board: Board, delta: float) -> float:
    compared_N = board.compared_with(_group(goal, board))
    logq_M = compared_N[compared_N > -np.inf].astype(np.float32)
    n, level = len(board.logq_N), goal.level
    if isinstance(goal, TargetRate):
        sweep = sweep_of(logq_M, np.zeros(len(logq_M), dtype=np.int64))
        return float(sweep.threshold_J[cut_at_rate(sweep, n, goal)])
    threshold = lowest_keeping(logq_M, n, level, delta)
    if threshold is None:
        needed = rows_needed(level, delta)
        raise GoalInfeasible(
            f"goal {goal.text!r}: {n} rows allow no threshold but 'never' at delta {delta:.3g}",
            f"at least {needed} rows are needed",
        )
    if threshold == NEVER:
        raise GoalInfeasible(
            f"goal {goal.text!r}: too many of {n} rows score q = 1, no threshold but 'never' "
            "excludes them",
            "ask for a higher rate, or train a model whose scores tell more apart",
        )
    return threshold
