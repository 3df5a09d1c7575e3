"""From goals and scores to a policy with its promises: by labels, or by probabilities alone.

On unlabelled traffic: demur.stats.thresholds.traffic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from demur.base.errors import GoalError, GoalInfeasible
from demur.core.decision import decide_many
from demur.core.goals.goal import Goal, Promise
from demur.core.goals.kinds import Cost, Natural, Optimum, TargetRate
from demur.core.goals.promised import DeferralRate, PromisedGoal
from demur.core.midway.compared import with_thresholds
from demur.core.policy import Policy
from demur.core.rates import decimal_fraction, stored
from demur.core.threshold import ALWAYS, NEVER
from demur.stats.labelled import LabelledScores
from demur.stats.slices import expand_slices
from demur.stats.thresholds.certify import CertifyOptions, Granted, certify
from demur.stats.thresholds.curve import with_curves
from demur.stats.thresholds.explain import what_would_do
from demur.stats.thresholds.losses import grouped_scores, rate_under, require_steerable
from demur.stats.thresholds.objective import best_within, objective_of
from demur.stats.thresholds.single_goal import solve_single
from demur.stats.thresholds.target_rates import rates_of_categories
from demur.stats.units import unit_rate


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _SolveInputs:
    goals: Sequence[Goal]
    template: Policy
    rows: LabelledScores
    options: CertifyOptions
    data_digest: str


def solve(
    goals: Sequence[Goal],
    template: Policy,
    rows: LabelledScores,
    options: CertifyOptions,
    *,
    data_digest: str,
) -> Policy:
    """The template with thresholds that meet the goals, one promise per goal, and operating curves.

    template: taxonomy, rule, calibrator, fingerprint, and per category whether it is active,
    locked, limited; its thresholds stay where no goal sets one. data_digest: of rows and scores.

    natural: the rule becomes `natural`, without thresholds and curves. One goal alone has a closed
    form, where the method that is asked for allows it: on_failure then moves no threshold. Several
    goals, or one that is about false refusals under a threshold per category, are certified
    together; goals that promise nothing are met beside them.

    Raises GoalError (goals that do not fit the template, or each other), DataError (rows that
    cannot tell), GoalInfeasible where a promise cannot be certified and on_failure says stop (or
    also the hard goals alone fail), PolicyError (a threshold falls outside the limits of its
    category).
    """
    if not goals:
        raise GoalError("no goal is given", "the simplest are 'natural' and 'f1 max'")
    goals = expand_slices(goals, template, rows)
    _require_budget(goals, template)
    case = _SolveInputs(
        goals=goals, template=template, rows=rows, options=options, data_digest=data_digest
    )
    if any(g.midway for g in goals):
        return _with_monitor(case)
    return _first_decisions(case)


def _first_decisions(case: _SolveInputs) -> Policy:
    """The thresholds at the first position."""
    if _closed_form(case):
        try:
            return _alone(case)
        except GoalInfeasible:
            if case.options.on_failure == "stop":
                raise
    if any(g.promised for g in case.goals):
        return _certified(case)
    return _alone(case) if len(case.goals) == 1 else _measured_together(case)


def _with_monitor(case: _SolveInputs) -> Policy:
    """The thresholds at the first position and those of the monitor, each by its own goals.

    Where both are promised each side gets half of delta, so that all hold together (union bound):
    the rows that choose one side say nothing of the errors of the other.
    """
    options = case.options
    first = tuple(g for g in case.goals if not g.midway)
    sides = 1 + any(g.promised for g in first)
    half = replace(
        options,
        confidence=float(1 - (1 - decimal_fraction(options.confidence)) / sides),
        on_failure="stop" if options.kept else options.on_failure,
        kept=None,
    )
    try:
        before = replace(case, goals=first, options=half)
        policy = _first_decisions(before) if first else with_curves(case.template, case.rows)
        policy = _stops(replace(case, options=half, rows=case.rows.by_answer()), policy)
    except GoalInfeasible as e:
        if options.kept is None:
            divided = "; first decisions and stops have half of delta each" if sides > 1 else ""
            raise GoalInfeasible(e.message, e.hint + divided) from None
        asked = [g for g in case.goals if isinstance(g, PromisedGoal)]
        promises = tuple(_uncertified(case, goal, options.kept) for goal in asked)
        return replace(options.kept, promises=options.kept.promises + promises)
    divided = f"; at delta {half.delta:.3g}, as much for the other position" if sides > 1 else ""
    promises = tuple(
        replace(p, confidence=options.confidence, method=p.method + divided)
        if p.status == "certified"
        else p
        for p in policy.promises
    )
    return replace(policy, promises=promises)


def _stops(case: _SolveInputs, policy: Policy) -> Policy:
    """The policy with a threshold for its monitor, and a promise for each goal about stops."""
    goals = [g for g in case.goals if isinstance(g, PromisedGoal) and g.midway]
    if case.options.method == "anytime":
        raise GoalError(
            f"method 'anytime' beside {goals[0].text!r}: answers are followed in one look",
            "use 'auto'",
        )
    if policy.monitor is None:
        raise GoalError(
            f"goal {goals[0].text!r} speaks of stops, and the template has no monitor",
            "give it one: which categories may stop, and how answers are written",
        )
    how = replace(case.options, method="auto", shares=None)
    found = certify(goals, policy, case.rows, how)
    if isinstance(found, Granted):
        monitor = with_thresholds(policy.monitor, found.certified.thresholds)
        policy = replace(policy, monitor=monitor)
        words = f"; peaks of whole answers: {monitor.answers.text}, {monitor.statistic}"
        found = replace(
            found,
            certified=replace(found.certified, method=found.certified.method + words),
        )
        own = _promises(replace(case, goals=goals), policy, found)
        return replace(policy, promises=policy.promises + own)
    raise GoalInfeasible(
        f"{', '.join(repr(g.text) for g in goals)} at {how.confidence:.0%} confidence: "
        f"{found.reason}",
        what_would_do(found),
    )


def solve_by_probabilities(
    goals: Sequence[Goal], template: Policy, rows: LabelledScores, *, data_digest: str
) -> Policy:
    """The template with the thresholds of least expected cost, its promise, and operating curves on
    these rows.

    No label is looked at: the calibrator answers for the thresholds.

    Raises GoalError unless the one goal gives costs that thresholds can weigh, under rule
    `heaviest`.
    """
    goal = goals[0]
    if len(goals) != 1 or not isinstance(goal, Cost):
        raise GoalError(
            f"goals {', '.join(repr(g.text) for g in goals)} cannot be met by probabilities alone",
            "one goal such as 'cost: false=1 missed=5', or cost_from = \"labels\"",
        )
    if template.rule != "heaviest" or goal.wrong:
        raise GoalError(
            f"goal {goal.text!r} under rule {template.rule!r}: thresholds weigh a false against a "
            "missed refusal, each category by itself",
            "use rule 'heaviest' and no cost of 'wrong', or cost_from = \"labels\"",
        )
    require_steerable(goal, template)
    policy = with_curves(template.with_thresholds(goal.thresholds(template.taxonomy.names)), rows)
    promise = Promise(
        goal=goal.stated,
        confidence=None,
        status="measured",
        rate=None,
        data_digest=data_digest,
        method=(
            "by calibrated probabilities, no label counted; holds as far as they do (Elkan 2001)"
        ),
    )
    return replace(policy, promises=(promise,))


def _require_budget(goals: Sequence[Goal], template: Policy) -> None:
    """Raise GoalError on a template that defers, where no goal says how often it may."""
    if template.defers and not any(isinstance(goal, DeferralRate) for goal in goals):
        raise GoalError(
            f"policy {template.name!r} may defer, and no goal says how often",
            "add one such as 'deferral <= 0.1', or take on_defer out",
        )


def _closed_form(case: _SolveInputs) -> bool:
    """Whether one goal alone is met by one shared threshold or its own optimum.

    A promise about false refusals is not, where several categories have a threshold each: a
    threshold for all may never refuse a category whose probabilities are lower than others'.
    """
    if (
        len(case.goals) != 1
        or case.options.method not in ("auto", "shared")
        or case.rows.hand_N is not None
        or not case.goals[0].monotone
        or case.template.defers
    ):
        return False
    several = (
        case.template.rule == "heaviest" and sum(c.may_emit for c in case.template.categories) > 1
    )
    return case.options.method == "shared" or not case.goals[0].of_answerable or not several


def _alone(case: _SolveInputs) -> Policy:
    """One goal by itself."""
    (goal,), template, rows = case.goals, case.template, case.rows
    if isinstance(goal, Natural):
        policy = with_curves(replace(template, rule="natural"), rows)
        promise = _measured(case, goal, policy, "the most probable control token; nothing chosen")
        return replace(policy, promises=(promise,))
    require_steerable(goal, template)
    found = solve_single(goal, template, rows, case.options.confidence)
    policy = with_curves(template.with_thresholds(found.thresholds), rows)
    promise = _measured(case, goal, policy, found.method)
    if (sure := found.certified) is not None:
        promise = replace(
            promise,
            confidence=case.options.confidence,
            status="certified",
            rate=sure.rate,
            by_units=sure.by_units,
            mix=sure.mix,
            method="; ".join(filter(None, [promise.method, sure.words])),
        )
    return replace(policy, promises=(promise,))


def _certified(case: _SolveInputs) -> Policy:
    """Promises, together with whatever else is asked for; or what the caller chose for the case
    that they fail.
    """
    template, options = case.template, case.options
    asked = [g for g in case.goals if isinstance(g, PromisedGoal)]
    found = certify(case.goals, template, case.rows, options)
    if isinstance(found, Granted):
        names, certified = template.taxonomy.names, found.certified
        policy = template.with_thresholds(dict(zip(names, certified.thresholds, strict=True)))
        if certified.held_from is not None:
            policy = _deferring_from(policy, certified.held_from)
        policy = with_curves(policy, case.rows)
        return replace(policy, promises=_promises(case, policy, found))
    if options.kept is not None:
        promises = tuple(_uncertified(case, goal, options.kept) for goal in asked)
        return replace(options.kept, promises=options.kept.promises + promises)
    raise GoalInfeasible(
        f"{', '.join(repr(g.text) for g in asked)} at {options.confidence:.0%} confidence: "
        f"{found.reason}",
        what_would_do(found),
    )


def _measured_together(case: _SolveInputs) -> Policy:
    """Goals that promise nothing: rates of categories beside each other and one optimum."""
    goals, template, rows = case.goals, case.template, case.rows
    for goal in goals:
        require_steerable(goal, template)
    grouped = grouped_scores(template, rows, shared=template.rule != "heaviest")
    fixed = rates_of_categories(goals, grouped, np.ones(len(rows.label_N), dtype=bool))
    groups = range(len(grouped.groups))
    best = next((g for g in goals if isinstance(g, Optimum)), None)
    if best is None:
        by_group = tuple(
            fixed.get(g, template.category(grouped.groups[g][0]).threshold) for g in groups
        )
    else:
        low, high = ([fixed.get(g, end) for g in groups] for end in (ALWAYS, NEVER))
        by_group = best_within(grouped, objective_of(best, grouped, ()), low, high)
    policy = template.with_thresholds(
        dict(zip(template.taxonomy.names, grouped.thresholds(by_group), strict=True))
    )
    policy = with_curves(policy, rows)
    return replace(policy, promises=tuple(_beside(case, g, policy) for g in goals))


def _deferring_from(policy: Policy, held_from: Sequence[float]) -> Policy:
    """The policy where the categories that defer do so from these thresholds on."""
    pairs = zip(policy.categories, held_from, strict=True)
    categories = tuple(
        c if c.on_defer is None else replace(c, defer_threshold=min(lowest, c.threshold))
        for c, lowest in pairs
    )
    return replace(policy, categories=categories)


def _promises(case: _SolveInputs, policy: Policy, granted: Granted) -> tuple[Promise, ...]:
    seen = {e.goal: e for e in granted.certified.evidence}
    method = granted.certified.method + "".join(f"; given up: {g.text}" for g in granted.given_up)
    found = []
    for goal in case.goals:
        if not isinstance(goal, PromisedGoal):
            found.append(_beside(case, goal, policy))
        elif goal in granted.kept:
            made, own = _measured(case, goal, policy, method), seen[goal]
            sure = case.options.confidence
            found.append(
                replace(
                    made,
                    status="certified",
                    confidence=sure,
                    rate=own.rate,
                    by_units=own.by_units,
                    mix=own.mix,
                    method="; ".join(filter(None, [made.method, own.words])),
                )
            )
        else:
            found.append(_uncertified(case, goal, policy))
    return tuple(found)


def _uncertified(case: _SolveInputs, goal: PromisedGoal, policy: Policy) -> Promise:
    did = (
        "given up"
        if case.options.kept is None
        else f"thresholds of {case.options.kept.name!r} kept"
    )
    made = _measured(case, goal, policy, f"not certified, {did}")
    if isinstance(goal, DeferralRate) and not policy.defers:  # a kept policy without a band
        return replace(made, status="uncertified")
    rate, mix = rate_under(policy, goal, case.rows, case.options.seed)
    counts, by_units = stored(rate)
    return replace(made, status="uncertified", rate=counts, by_units=by_units, mix=mix)


def _beside(case: _SolveInputs, goal: Goal, policy: Policy) -> Promise:
    """A goal that promises nothing, met beside others."""
    if isinstance(goal, TargetRate):
        return _measured(case, goal, policy, "order statistic of the calibration scores")
    return _measured(case, goal, policy, "the best beside the other goals, on these rows")


def _measured(case: _SolveInputs, goal: Goal, policy: Policy, method: str) -> Promise:
    """What was observed of a goal on these rows, without a guarantee: its rate, where it is one of
    decisions alone.
    """
    rate = by_units = None
    if isinstance(goal, Natural | TargetRate):
        decisions = decide_many(policy, case.rows.table.logp_NC)
        emitted_N = decisions.refuses_N
        if goal.category is not None:
            emitted_N = decisions.choice_N == policy.taxonomy.column(goal.category)
        everyone_N, rows = np.ones(len(emitted_N), dtype=bool), case.rows
        rate, by_units = stored(unit_rate(emitted_N, everyone_N, rows.group_N, rows.count_N))
    return Promise(
        goal=goal.stated,
        confidence=None,
        status="measured",
        rate=rate,
        by_units=by_units,
        data_digest=case.data_digest,
        method=method,
        on_failure=case.options.on_failure,
    )
