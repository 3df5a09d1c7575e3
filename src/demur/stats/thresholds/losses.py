"""Policies, rows and goals turned into the arrays of demur.stats.thresholds.problem.

Shapes: N rows, C columns (0 = respond, then one per category).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from demur.base.arrays import Bools, Doubles, Ints
from demur.base.errors import DataError, GoalError, TaxonomyError
from demur.core.decision import compared_scores, compared_slack, decide_many
from demur.core.goals.counts import Rows
from demur.core.goals.goal import Goal
from demur.core.goals.kinds import TargetRate
from demur.core.goals.promised import PROMISED, DeferralRate, PromisedGoal, promised
from demur.core.midway.compared import compared_peaks
from demur.core.midway.followed import stopped, stopping
from demur.core.midway.peaks import AnswerPeaks
from demur.core.policy import Policy
from demur.core.rates import Rate, Slice, TrafficMix
from demur.core.score import ENGINE_TOLERANCE
from demur.core.taxonomy import Taxonomy
from demur.core.threshold import NEVER
from demur.stats.labelled import UNCHECKED, LabelledScores, Traits
from demur.stats.thresholds.problem import NO_GROUP, GroupedScores, Loss
from demur.stats.traffic.bounds import EstimatedMix, SpokenShares
from demur.stats.units import unit_rate
from demur.stats.weighted import mix_among

STEERABLE = ("heaviest", "sum", "any")  # rules that thresholds steer


def grouped_scores(template: Policy, rows: LabelledScores, *, shared: bool) -> GroupedScores:
    """The rows of a policy with a threshold per category, or one shared by all active ones."""
    heaviest_N = decide_many(template, rows.table.logp_NC).heaviest_N
    active = [name for name in template.taxonomy.names if template.category(name).may_emit]
    columns = np.array([template.taxonomy.column(name) for name in active], dtype=np.int64)
    # Column of a score -> group of its category; column 0, respond, has none.
    group_of_column = np.full(len(template.taxonomy.tokens), NO_GROUP, dtype=np.int64)
    group_of_column[columns] = 0 if shared else np.arange(len(active))
    # One threshold for all: the heaviest category meets it wherever a locked one does.
    locked = [] if shared or template.rule != "heaviest" else _locked(template, active)
    logp_NC = rows.table.logp_NC
    found = GroupedScores(
        rows=rows,
        names=template.taxonomy.names,
        standing=tuple(category.threshold for category in template.categories),
        groups=(tuple(active),) if shared else tuple((name,) for name in active),
        group_N=group_of_column[heaviest_N],
        logq_N=compared_scores(template, logp_NC).astype(np.float64),
        heaviest_N=heaviest_N,
        locked=_locks(template, rows, locked),
        deferring=_deferring(template, active, shared=shared),
    )
    # how far each score may move, and each of a locked category
    slack_N = compared_slack(template, logp_NC, ENGINE_TOLERANCE)
    locks = {g: compared_slack(template, logp_NC, ENGINE_TOLERANCE, name) for g, name in locked}
    low, high = (
        replace(
            found,
            logq_N=_moved(found.logq_N, sign * slack_N),
            locked={g: _moved(found.locked[g], sign * own_N) for g, own_N in locks.items()},
        )
        for sign in (-1.0, 1.0)
    )
    return replace(found, low=low, high=high)


def rows_of(goal: Goal, rows: LabelledScores) -> LabelledScores:
    """The rows that a goal counts: one an answer where it speaks of stops."""
    return rows.by_answer() if goal.midway else rows


def counted_by(
    goal: Goal, template: Policy, rows: LabelledScores, *, shared: bool
) -> GroupedScores:
    """The rows as a goal counts them: by first decisions, or by whole answers."""
    if goal.midway:
        return _grouped_answers(goal, template, rows)
    return grouped_scores(template, rows, shared=shared)


def decided_by(goal: Goal, policy: Policy, rows: LabelledScores) -> tuple[Bools, Bools]:
    """Which rows a policy refuses, and which it refuses or defers; or, twice, which it stops where
    the goal speaks of stops. Shape (N,) each.
    """
    if goal.midway:
        none_N = np.zeros(len(rows.label_N), dtype=bool)
        monitor = policy.monitor
        stopped_N = none_N if monitor is None else stopped(monitor, _answers_of(goal, rows))
        return stopped_N, stopped_N
    decided = decide_many(policy, rows.table.logp_NC)
    return decided.refuses_N, decided.held_N


def _grouped_answers(goal: Goal, template: Policy, rows: LabelledScores) -> GroupedScores:
    """The rows with one threshold of the template's monitor, and the peaks of their answers.

    Raises DataError where no answers were followed, GoalError on a goal about some of the
    categories that may stop.
    """
    peaks, names = _answers_of(goal, rows), template.taxonomy.names
    if template.monitor is not None:
        names = tuple(names[k] for k in stopping(template.monitor))
    _check_stopping(goal, names)
    compared = compared_peaks(template.monitor, peaks)
    grouped = GroupedScores(
        rows=rows,
        names=template.taxonomy.names,
        standing=(NEVER,) * len(template.taxonomy.names),
        groups=(names,),
        # an answer without a token is stopped by no threshold
        group_N=np.where(compared.heaviest_N > 0, 0, NO_GROUP),
        logq_N=compared.logq_N,
        heaviest_N=compared.heaviest_N,
    )
    low, high = (replace(grouped, logq_N=end_N) for end_N in (compared.low_N, compared.high_N))
    return replace(grouped, low=low, high=high)


def _answers_of(goal: Goal, rows: LabelledScores) -> AnswerPeaks:
    if rows.answers is None:
        raise DataError(
            f"goal {goal.text!r} speaks of whole answers, and none were followed",
            "write and follow them: demur score RUN --answers 256, or [score.answers]",
        )
    return rows.answers


def _check_stopping(goal: Goal, names: Sequence[str]) -> None:
    """Raise GoalError where a goal about false stops names some of the categories that may stop:
    they share one threshold, and which of them reaches it first depends on it.
    """
    named = set(goal.categories)
    if goal.of_answerable and named and not named >= set(names):
        raise GoalError(
            f"goal {goal.text!r}: {', '.join(names)} stop answers at one threshold, and which does "
            "depends on it",
            "bound false_stop of all of them, or let one stop: calibrate.monitor.categories",
        )


def grouped_by_policy(goal: Goal, policy: Policy, rows: LabelledScores) -> GroupedScores:
    """The rows under a policy's own thresholds, as a goal counts them.

    Equal thresholds are shared, and no lock refuses first: each refusal then counts for its
    heaviest category alone, as it was certified.
    """
    if goal.midway:
        return _grouped_answers(goal, policy, rows)
    found = {category.threshold for category in policy.categories if category.may_emit}
    return grouped_scores(policy, rows, shared=len(found) == 1)


def rate_under(
    policy: Policy, goal: Goal, rows: LabelledScores, seed: int = 0
) -> tuple[Rate, tuple[Slice, ...]]:
    """A promised goal's rate on all these rows under a policy's own thresholds, and its slices;
    their intervals count units.

    seed: draws one row of each unit. Raises what losses_of raises.
    """
    rows = rows_of(goal, rows)
    (loss,) = losses_of([goal], policy, grouped_by_policy(goal, policy, rows), seed)
    refused_N, held_N = decided_by(goal, policy, rows)
    everyone_N = np.ones(len(refused_N), dtype=bool)
    return loss.measured(refused_N, everyone_N, held_N), loss.mix(refused_N, everyone_N, held_N)


def _moved(logq_N: Doubles, by_N: Doubles) -> Doubles:
    """Log-probabilities that are off by so much, as float32 values; doubtful rows stay at +inf."""
    moved_N = np.minimum(logq_N + by_N, 0.0).astype(np.float32).astype(np.float64)
    return np.where(logq_N == np.inf, np.inf, moved_N)


def _deferring(template: Policy, active: Sequence[str], *, shared: bool) -> frozenset[int]:
    """The groups of which some category defers."""
    defer = [template.category(name).on_defer is not None for name in active]
    if not shared:
        return frozenset(g for g, does in enumerate(defer) if does)
    return frozenset({0} if any(defer) else ())


def _locked(template: Policy, active: Sequence[str]) -> list[tuple[int, str]]:
    """The locked categories among the active ones, each with its group."""
    return [(g, name) for g, name in enumerate(active) if template.category(name).locked]


def _locks(
    template: Policy, rows: LabelledScores, locked: Sequence[tuple[int, str]]
) -> dict[int, Doubles]:
    if not locked:
        return {}
    logq_NC = template.calibrator.apply(rows.table.logp_NC).astype(np.float64)
    return {g: np.minimum(logq_NC[:, template.taxonomy.column(name)], 0.0) for g, name in locked}


def losses_of(
    goals: Sequence[Goal], template: Policy, grouped: GroupedScores, seed: int
) -> tuple[Loss, ...]:
    """The promised goals as losses on rows that were grouped for this template.

    seed: draws one row of each unit, for the test on drawn rows (demur.stats.units). Raises
    GoalError on a goal that promises nothing and on a category that is unknown or not active,
    DataError where no row can show the goal's errors.
    """
    return tuple(_loss(promised(goal), template, grouped, seed) for goal in goals)


def _loss(goal: PromisedGoal, template: Policy, grouped: GroupedScores, seed: int) -> Loss:
    label_N, names = grouped.rows.label_N, grouped.names
    check_categories(goal, template)
    rows = Rows(label_N=label_N, heaviest_N=grouped.heaviest_N, names=names)
    could_err_N = goal.could_err(rows)
    if grouped.locked:
        # A locked category may be emitted for any row. Counting each refusal as its own errs on the
        # careful side.
        could_err_N = could_err_N | any(
            name in goal.categories for g in grouped.locked for name in grouped.groups[g]
        )
        if not goal.beside_locks:
            raise GoalError(
                f"goal {goal.text!r} beside a locked category, which refuses over the heaviest one",
                "unlock it, or promise false and missed refusals",
            )
    whole_N = goal_rows(goal, grouped.rows, template.taxonomy)
    among_N = whole_N & goal.counts(rows, np.ones(len(label_N), dtype=bool))
    if not among_N.any():
        raise DataError(
            f"goal {goal.text!r}: none of the {len(label_N)} rows is {goal.rows_words}, nothing "
            "can be said of it",
            "add such rows to the calibrate split, or drop the goal",
        )
    if grouped.rows.traffic is not None and not isinstance(grouped.rows.traffic, EstimatedMix):
        among_N = whole_N  # shares are stated of all requests, not of those that may be refused
    traffic, spoken = _traffic_of(goal, grouped.rows, among_N)
    return Loss(
        goal=goal,
        among_N=among_N,
        could_err_N=among_N & could_err_N,
        rows=rows,
        deciders=names if grouped.locked else goal.deciders(names),
        unit_N=grouped.rows.group_N,
        count_N=grouped.rows.count_N,
        taught_N=grouped.rows.taught_N,
        seed=seed,
        traffic=traffic,
        spoken=spoken,
        traits=grouped.rows.traits,
    )


def _traffic_of(
    goal: PromisedGoal, rows: LabelledScores, among_N: Bools
) -> tuple[TrafficMix | None, SpokenShares | None]:
    """The mix that a goal is promised for, and what it speaks of each slice. None where it can
    speak of one slice only, so that no mix changes its rate.
    """
    mix = rows.traffic
    if not isinstance(mix, EstimatedMix):
        return None if mix is None else mix_among(mix, among_N, goal.text), None
    rates = tuple(
        unit_rate(among_N, mix.slice_N == s, rows.group_N, rows.count_N)
        for s in range(len(mix.names))
    )
    # A goal speaks of no other labels than its own, and of no slice that it does not name.
    named = next((names for facet, names in goal.where if facet == mix.facet), mix.names)
    of_labels = mix.by_label and goal.whom != "any"
    barred = tuple(
        name not in named or (of_labels and not rate.hits)
        for name, rate in zip(mix.names, rates, strict=True)
    )
    if barred.count(False) == 1:
        return None, None
    # Whether what it speaks of depends on no more than the slice.
    whole = {facet for facet, _ in goal.where} <= {mix.facet} and (
        goal.monotone or not goal.categories
    )
    settled = whole and (goal.whom == "any" or mix.by_label)
    return mix, SpokenShares(rates=rates, settled=settled, barred=barred)


def goal_rows(goal: PromisedGoal, rows: LabelledScores, taxonomy: Taxonomy) -> Bools:
    """The rows that a promised goal speaks of.

    Raises DataError where a slice is asked for and the rows have no traits, TaxonomyError on an
    unknown category.
    """
    among_N = goal.among(rows.label_N, [taxonomy.column(name) for name in goal.categories])
    for facet, names in goal.where:
        among_N = among_N & goal_traits(goal, rows).within(facet, names)
    return np.asarray(among_N, dtype=bool)


def goal_traits(goal: PromisedGoal, rows: LabelledScores) -> Traits:
    if rows.traits is None:
        raise DataError(
            f"goal {goal.text!r} speaks of a slice, and these rows say nothing but their labels",
            "ask for slices where rows of the data stage are at hand",
        )
    return rows.traits


def check_categories(goal: PromisedGoal | TargetRate, template: Policy) -> None:
    """Raise GoalError on a category that is unknown; or not active, where the goal is about its
    token.
    """
    # which categories stop is the monitor's matter: _check_stopping
    about_tokens = (isinstance(goal, TargetRate) or goal.of_tokens) and not goal.midway
    if isinstance(goal, DeferralRate):
        _check_deferral(goal, template)
    for name in goal.categories:
        try:
            category = template.category(name)
        except TaxonomyError as e:
            raise GoalError(f"goal {goal.text!r}: {e.message}", e.hint) from e
        if not category.may_emit and about_tokens:
            raise GoalError(
                f"goal {goal.text!r}: category {name!r} is not active",
                "activate it, or name another",
            )


def _check_deferral(goal: DeferralRate, template: Policy) -> None:
    """Raise GoalError where a category that the goal names, or every one, does not defer."""
    idle = [
        name
        for name, category in zip(template.taxonomy.names, template.categories, strict=True)
        if category.on_defer is None
    ]
    named = [name for name in goal.categories if name in idle]
    if named or len(idle) == len(template.categories):
        which = f"{', '.join(map(repr, named))} does not defer" if named else "no category defers"
        raise GoalError(
            f"goal {goal.text!r} bounds how much is deferred, and {which}",
            "say what is done then: on_defer and defer_text in [calibrate]",
        )


def require_steerable(goal: Goal, template: Policy) -> None:
    """Raise GoalError where no threshold of this template could serve the goal."""
    if goal.midway:  # a monitor's threshold is beside the rule and its categories
        return
    if template.rule not in STEERABLE:
        raise GoalError(
            f"goal {goal.text!r} cannot steer rule {template.rule!r}: it needs "
            f"{', '.join(STEERABLE)}",
            'set rule = "heaviest", or ask for the goal "natural"',
        )
    forced = [n for n in template.taxonomy.names if template.category(n).override == "force"]
    if forced:
        raise GoalError(
            f"goal {goal.text!r}: category {forced[0]!r} is forced, no threshold changes it",
            "unforce it",
        )
    if not any(category.may_emit for category in template.categories):
        raise GoalError(
            f"goal {goal.text!r}: no category is active, nothing can be refused",
            "activate a category",
        )


def losses_by_hand(
    goal: Goal, template: Policy, grouped: GroupedScores, hand_N: Ints
) -> tuple[Loss, Loss]:
    """The goal as a loss by the judge's labels and by the hand's.

    hand_N: labels by hand, UNCHECKED elsewhere; the second loss is meaningless on those rows. Rows
    made from one another are all in: the caller chooses which of them counts, once for both. Raises
    GoalError on a goal without a correction, DataError on labels of another shape.
    """
    if not promised(goal).by_hand:
        known = " and ".join(kind.name for kind in PROMISED if kind.by_hand)
        raise GoalError(f"goal {goal.text!r} has no correction", f"{known} have one")
    label_N, known_N = grouped.rows.label_N, hand_N >= 0
    if hand_N.shape != label_N.shape or not known_N.any() or (hand_N < UNCHECKED).any():
        raise DataError(
            f"hand labels of shape {hand_N.shape} for {len(label_N)} rows, {known_N.sum()} known",
            "one a row: a column of the scores, or -1 where no hand has labelled it",
        )
    found: list[Loss] = []
    # an unchecked row keeps the judge's label
    for label_of_N in (label_N, np.where(known_N, hand_N, label_N)):
        rows = replace(grouped.rows, label_N=label_of_N, group_N=None, hand_N=None)
        own = counted_by(goal, template, rows, shared=len(grouped.groups) == 1)
        found += losses_of([goal], template, own, seed=0)
    return found[0], found[1]
