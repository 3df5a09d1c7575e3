"""Refusal rates met on unlabelled traffic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from demur.base.errors import GoalError, GoalInfeasible
from demur.core.goals.goal import Goal, Promise
from demur.core.goals.kinds import TargetRate
from demur.core.goals.promised import RefusalRate
from demur.core.policy import Policy
from demur.core.rates import ByUnits, Rate, decimal_fraction, stored
from demur.core.threshold import NEVER
from demur.stats.labelled import LabelledScores
from demur.stats.slices import expand_slices
from demur.stats.thresholds.closed_form import METHOD, lowest_passing
from demur.stats.thresholds.losses import STEERABLE, check_categories, grouped_scores
from demur.stats.thresholds.problem import AT_WORST, GroupedScores
from demur.stats.thresholds.sweep import sweep_of
from demur.stats.thresholds.target_rates import cut_at_rate
from demur.stats.units import CountedRows, count_rows

TrafficGoal = TargetRate | RefusalRate  # what can be met on traffic without labels


def solve_on_traffic(
    goals: Sequence[Goal],
    template: Policy,
    traffic: LabelledScores,
    *,
    confidence: float,
    data_digest: str,
) -> Policy:
    """The template with thresholds that meet refusal rates on unlabelled traffic: see `meet_rates`.

    The rate that each has there is in its promise. Raises GoalError on other goals, GoalInfeasible
    where a rate cannot be met.
    """
    met = rates_on_traffic(goals, template, traffic, confidence)
    sampling = _sampling(traffic)
    promises = tuple(
        Promise(
            goal=one.goal.stated,
            confidence=confidence if one.goal.promised else None,
            status="certified" if one.goal.promised else "measured",
            rate=one.rate,
            by_units=one.by_units,
            data_digest=data_digest,
            method=f"{METHOD}, unlabelled traffic, {sampling}; {AT_WORST}"
            if one.goal.promised
            else "order statistic of the traffic's scores",
        )
        for one in met
    )
    thresholds = {name: one.threshold for one in met for name in one.categories}
    return replace(template.with_thresholds(thresholds), promises=promises)


@dataclass(frozen=True, kw_only=True, slots=True)
class MetRate:
    """A goal that is met on traffic."""

    goal: TrafficGoal
    categories: tuple[str, ...]  # whose threshold it is
    threshold: float
    rate: Rate  # refused at it, among all requests
    by_units: ByUnits | None  # its 95 % interval, where the counts do not tell it


def rates_on_traffic(
    goals: Sequence[Goal], template: Policy, unlabelled: LabelledScores, confidence: float
) -> list[MetRate]:
    """Thresholds that meet refusal rates on traffic; its labels are not read.

    "refusal_rate = x": the most lenient threshold that refuses at most this share of the traffic at
    hand. "refusal_rate <= x": of all such traffic, with the confidence, for all these goals
    together. Of all categories (one shared threshold) or, under rule `heaviest`, per category; not
    both. Raises GoalError on other goals, GoalInfeasible where a rate cannot be met.
    """
    _check(goals, template)
    asked = [g for g in expand_slices(goals, template, unlabelled) if isinstance(g, TrafficGoal)]
    whole = any(goal.category is None for goal in asked)
    grouped = grouped_scores(template, unlabelled, shared=whole)
    # Several bounds hold together: each gets an even share of delta (union bound).
    delta = float(1 - decimal_fraction(confidence)) / max(sum(goal.promised for goal in asked), 1)
    found = []
    for goal in asked:
        g = _group(goal, template, grouped)
        threshold = _threshold(goal, grouped, g, delta)
        with np.errstate(divide="ignore"):
            refused_N = grouped.compared_with(g) >= np.log(threshold)
        rate, by_units = stored(_everything(grouped.rows).measured(refused_N))
        found.append(
            MetRate(
                goal=goal,
                categories=grouped.groups[g],
                threshold=threshold,
                rate=rate,
                by_units=by_units,
            )
        )
    return found


def _everything(rows: LabelledScores) -> CountedRows:
    """All rows of traffic, as evidence."""
    return count_rows(np.ones(len(rows.label_N), dtype=bool), rows.group_N, rows.count_N, seed=0)


def _sampling(traffic: LabelledScores) -> str:
    """How the promise takes the traffic's rows to have been drawn, for people."""
    if traffic.group_N is None:
        return "which names no sessions: each request counts as drawn by itself"
    counted = _everything(traffic)
    return f"{counted.requests} requests in {counted.units} sessions or alone"


def _check(goals: Sequence[Goal], template: Policy) -> None:
    if not goals:
        raise GoalError("no goal is given", "such as 'refusal_rate = 10%'")
    for goal in goals:
        if not isinstance(goal, TrafficGoal) or len(goal.categories) > 1:
            raise GoalError(
                f"goal {goal.text!r} needs labels", "unlabelled traffic can meet refusal rates only"
            )
        if isinstance(goal, RefusalRate) and (goal.where or goal.every not in (None, "category")):
            raise GoalError(
                f"goal {goal.text!r} speaks of a slice, and unlabelled traffic says nothing of its "
                "rows",
                "ask for rates of all traffic, or of single categories",
            )
    # "refusal_rate <= 0.1 in every category" asks for a rate of each
    each = [isinstance(goal, RefusalRate) and goal.every is not None for goal in goals]
    totals = [goal.category is None and not e for goal, e in zip(goals, each, strict=True)]
    if len(goals) > 1 and any(totals):
        raise GoalError(
            "a total rate beside rates of categories", "ask for the total, or for each category"
        )
    if template.rule not in STEERABLE or (template.rule != "heaviest" and goals[0].category):
        raise GoalError(
            f"rule {template.rule!r} has no threshold for {goals[0].text!r}", "use rule 'heaviest'"
        )


def _group(goal: TrafficGoal, template: Policy, grouped: GroupedScores) -> int:
    if goal.category is None:
        return 0
    check_categories(goal, template)
    return grouped.groups.index((goal.category,))


def _threshold(goal: TrafficGoal, grouped: GroupedScores, g: int, delta: float) -> float:
    compared_N, level = grouped.compared_with(g), goal.level
    counted = _everything(grouped.rows)
    if isinstance(goal, TargetRate):
        own_N = compared_N > -np.inf
        logq_M = compared_N[own_N].astype(np.float32)
        no_label_M = np.zeros(len(logq_M), dtype=np.int64)
        sweep = sweep_of(logq_M, no_label_M, count_M=counted.count_M[own_N])
        return float(sweep.threshold_J[cut_at_rate(sweep, counted.requests, goal)])
    test = counted.test(level, delta)
    if test is None:
        needed = counted.needed(level, delta)
        what = "rows" if counted.plain else "sessions or rows alone"
        raise GoalInfeasible(
            f"goal {goal.text!r}: {counted.units} {what} allow no threshold but 'never' at delta "
            f"{delta:.3g}",
            f"at least {needed} {what} are needed",
        )
    threshold = lowest_passing(grouped.at_worst("refused").compared_with(g), test)
    if threshold == NEVER:
        raise GoalInfeasible(
            f"goal {goal.text!r}: too many of {len(compared_N)} rows score q = 1, no threshold "
            "but 'never' excludes them",
            "ask for a higher rate, or train a model whose scores tell more apart",
        )
    return threshold
