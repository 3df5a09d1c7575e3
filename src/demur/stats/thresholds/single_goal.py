"""One goal alone, in closed form: its optimum over all thresholds, not over a grid; ties go to the
stricter one.

Which rules a goal can steer: `heaviest` (a threshold per category), `sum` and `any` (one threshold
shared by all active categories). A refusal rate or a promise over all categories uses one shared
threshold under every rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from demur.base.errors import DataError, GoalError, GoalInfeasible, TaxonomyError
from demur.core.goals.goal import Goal
from demur.core.goals.kinds import (
    AnyFBeta,
    Cost,
    FBeta,
    MacroFBeta,
    MicroFBeta,
    Optimum,
    TargetRate,
    Youden,
)
from demur.core.goals.promised import PromisedGoal
from demur.core.policy import Policy
from demur.core.rates import decimal_fraction
from demur.core.threshold import ALWAYS, NEVER
from demur.stats.labelled import LabelledScores
from demur.stats.thresholds.closed_form import METHOD
from demur.stats.thresholds.curve import category_sweeps, pooled_sweep
from demur.stats.thresholds.explain import failure_of, what_would_do
from demur.stats.thresholds.losses import grouped_scores, losses_of
from demur.stats.thresholds.objective import best_within, objective_of
from demur.stats.thresholds.procedures.outlook import with_outlook
from demur.stats.thresholds.procedures.shared import certify_shared, shared_limits
from demur.stats.thresholds.procedures.task import CertifyTask, Tried, evidence_of
from demur.stats.thresholds.results import Evidence
from demur.stats.thresholds.sweep import Sweep, best_fbeta, best_linear, totals
from demur.stats.thresholds.target_rates import cut_at_rate


@dataclass(frozen=True, kw_only=True, slots=True)
class _GoalInputs:
    goal: Goal
    template: Policy
    rows: LabelledScores
    confidence: float

    @property
    def delta(self) -> float:
        """1 - confidence, without the float residue of 1 - 0.95."""
        return float(1 - decimal_fraction(self.confidence))

    @property
    def emittable(self) -> tuple[str, ...]:
        """Categories that may be refused with."""
        return tuple(
            name for name in self.template.taxonomy.names if self.template.category(name).may_emit
        )

    @property
    def locks(self) -> tuple[str, ...]:
        """Locked ones among them, where each has a threshold of its own."""
        return tuple(
            n
            for n in self.emittable
            if self.template.rule == "heaviest" and self.template.category(n).locked
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class SingleGoalSolution:
    """The thresholds of one goal."""

    thresholds: dict[str, float]  # by category
    method: str  # and its source
    certified: Evidence | None = None  # what a certified goal was tested on


def solve_single(
    goal: Goal, template: Policy, rows: LabelledScores, confidence: float
) -> SingleGoalSolution:
    """The thresholds that meet one goal on these rows. confidence: of a promised rate, in (0, 1).

    fbeta, youden, cost: the global optimum for "refused or answered". fbeta of a category,
    macro_fbeta, micro_fbeta: of the tokens, under rule `heaviest` only. A rate to be met: the most
    lenient threshold that refuses at most this share of the rows; of one category under rule
    `heaviest` only. Promises: one shared threshold.

    Raises GoalError (the goal does not fit the template), DataError (rows that cannot tell),
    GoalInfeasible (no threshold meets the goal).
    """
    case = _GoalInputs(goal=goal, template=template, rows=rows, confidence=confidence)
    match goal:
        case FBeta(category=None) | Youden() | Cost():
            _need_both_kinds(case)
            return _beside_locks(case, goal) if case.locks else _over_thresholds(case, goal)
        case FBeta() | MacroFBeta() | MicroFBeta():
            return _of_tokens(case, goal)
        case TargetRate():
            return _target_rate(case, goal)
        case PromisedGoal():
            return _promised(case, goal)
    raise GoalError(f"goal {goal.text!r} sets no threshold", "make goals with parse_goal")


def _free_sweeps(case: _GoalInputs) -> dict[tuple[str, ...], Sweep]:
    """The thresholds to choose, each with the categories that share it."""
    if case.template.rule == "heaviest":
        return {(name,): sweep for name, sweep in category_sweeps(case.template, case.rows).items()}
    return {case.emittable: pooled_sweep(case.template, case.rows)}


def _set(sweeps: dict[tuple[str, ...], Sweep], cuts: Sequence[int]) -> dict[str, float]:
    pairs = zip(sweeps.items(), cuts, strict=True)
    return {name: float(sweep.threshold_J[cut]) for (names, sweep), cut in pairs for name in names}


def _need_both_kinds(case: _GoalInputs) -> None:
    """Raise DataError where the rows cannot weigh one error against the other."""
    rows, text = case.rows, case.goal.text
    for count, kind in ((rows.to_answer, "answered"), (rows.to_refuse, "refused")):
        if count == 0:
            raise DataError(
                f"goal {text!r}: none of the {len(rows.label_N)} rows is to be {kind}, all labels "
                "are of one kind",
                "calibrate on rows of both kinds, or ask for a refusal rate",
            )
    if case.template.rule == "heaviest":
        for name in case.emittable:
            _need_own(case, name)


def _need_own(case: _GoalInputs, name: str) -> None:
    if not (case.rows.label_N == case.template.taxonomy.column(name)).any():
        raise DataError(
            f"goal {case.goal.text!r}: no row is to be refused with {name!r}, so its threshold "
            "cannot be chosen",
            f"add such rows to the calibrate split, or make {name!r} inactive",
        )


def _over_thresholds(case: _GoalInputs, goal: FBeta | Youden | Cost) -> SingleGoalSolution:
    """The best of refused or answered, over all cuts of all thresholds."""
    if not isinstance(goal, FBeta):
        return _linear(case, goal)
    sweeps = _free_sweeps(case)
    cuts, f = best_fbeta(list(sweeps.values()), case.rows.to_refuse, goal.beta)
    return _best_fbeta(goal, _set(sweeps, cuts), f)


def _of_tokens(case: _GoalInputs, goal: AnyFBeta) -> SingleGoalSolution:
    """The best of categories' tokens: of one, of each by itself, or of all counted together."""
    if goal.category is not None:
        return _own_fbeta(case, goal, [goal.category])
    if case.locks:
        raise GoalError(
            f"goal {goal.text!r} beside locked categories {', '.join(case.locks)}: they refuse "
            "over the others",
            "ask for 'f1 max', which counts refused or answered, or unlock them",
        )
    if isinstance(goal, MacroFBeta):
        return _own_fbeta(case, goal, case.emittable)
    sweeps: dict[tuple[str, ...], Sweep] = {
        (name,): _own_sweep(case, name) for name in case.emittable
    }
    _need_both_kinds(case)
    cuts, f = best_fbeta(list(sweeps.values()), case.rows.to_refuse, goal.beta, "own")
    return _best_fbeta(goal, _set(sweeps, cuts), f)


def _own_fbeta(case: _GoalInputs, goal: AnyFBeta, names: Sequence[str]) -> SingleGoalSolution:
    """The best F-beta of each of these tokens, every one by itself: their mean is the best mean,
    too.
    """
    thresholds: dict[str, float] = {}
    f = []
    for name in names:
        sweep = _own_sweep(case, name)
        own = case.rows.requests(case.rows.label_N == case.template.taxonomy.column(name))
        _need_own(case, name)
        cuts, best = best_fbeta([sweep], own, goal.beta, "own")
        thresholds |= _set({(name,): sweep}, cuts)
        f.append(best)
    return _best_fbeta(goal, thresholds, sum(f, Fraction(0)) / len(f))


def _beside_locks(case: _GoalInputs, goal: Optimum) -> SingleGoalSolution:
    """A locked category reaches over the others' rows: no sum over thresholds is right, so they are
    moved in turn.
    """
    method = (
        f"{goal.risk} on these {len(case.rows.label_N)} rows: no move of one threshold betters it; "
        "locked categories refuse over the others, so the best of all vectors is not known"
    )
    return SingleGoalSolution(thresholds=_best_anywhere(case, goal, shared=False), method=method)


def _best_anywhere(case: _GoalInputs, goal: Optimum, *, shared: bool) -> dict[str, float]:
    """The thresholds of most worth between "always" and "never"."""
    grouped = grouped_scores(case.template, case.rows, shared=shared)
    objective, groups = objective_of(goal, grouped, ()), len(grouped.groups)
    by_group = best_within(grouped, objective, [ALWAYS] * groups, [NEVER] * groups)
    names = dict(zip(case.template.taxonomy.names, grouped.thresholds(by_group), strict=True))
    return {n: names[n] for n in case.emittable}


def _best_fbeta(goal: AnyFBeta, thresholds: dict[str, float], f: Fraction) -> SingleGoalSolution:
    method = (
        f"{goal.risk} = {float(f):.4f} on these rows: the maximum over all cuts (Dinkelbach 1967)"
    )
    return SingleGoalSolution(thresholds=thresholds, method=method)


def _linear(case: _GoalInputs, goal: Youden | Cost) -> SingleGoalSolution:
    """A gain per row caught, less a cost per false refusal: in exact fractions, where all rows
    weigh the same.
    """
    rows, of = case.rows, f"these {len(case.rows.label_N)} rows"
    if isinstance(goal, Cost) and (goal.missed_of or goal.wrong):
        # Costs that differ by category, or of a wrong category: rows weigh differently, cuts still
        # separate.
        thresholds = _best_anywhere(case, goal, shared=case.template.rule != "heaviest")
        method = f"the least cost on {of} over all cuts (Elkan 2001)"
        return SingleGoalSolution(thresholds=thresholds, method=method)
    per_caught, per_false = Fraction(1, rows.to_refuse), Fraction(1, rows.to_answer)
    if isinstance(goal, Cost):
        per_caught, per_false = decimal_fraction(goal.missed), decimal_fraction(goal.false)
    sweeps = _free_sweeps(case)
    cuts = best_linear(list(sweeps.values()), per_caught, per_false)
    caught, false = totals(list(sweeps.values()), cuts)
    if isinstance(goal, Cost):
        cost = float(per_caught * (rows.to_refuse - caught) + per_false * false)
        method = f"cost {cost:g} on {of}: the minimum over all cuts (Elkan 2001)"
    else:
        j = float(caught * per_caught - false * per_false)
        method = f"J = {j:.4f} on these rows: the maximum over all cuts (Youden 1950)"
    return SingleGoalSolution(thresholds=_set(sweeps, cuts), method=method)


def _target_rate(case: _GoalInputs, goal: TargetRate) -> SingleGoalSolution:
    names = (goal.category,) if goal.category else case.emittable
    sweep = (
        _own_sweep(case, goal.category) if goal.category else pooled_sweep(case.template, case.rows)
    )
    return SingleGoalSolution(
        thresholds=_set({names: sweep}, [cut_at_rate(sweep, case.rows.requests(), goal)]),
        method="order statistic of the calibration scores",
    )


def _own_sweep(case: _GoalInputs, category: str) -> Sweep:
    text = case.goal.text
    if case.template.rule != "heaviest":
        raise GoalError(
            f"goal {text!r} needs rule 'heaviest': under {case.template.rule!r} categories share "
            "prompts",
            'set rule = "heaviest", or ask for the refusal rate of all categories together',
        )
    try:
        case.template.taxonomy.index(category)
    except TaxonomyError as e:
        raise GoalError(f"goal {text!r}: {e.message}", e.hint) from e
    if category not in case.emittable:
        raise GoalError(
            f"goal {text!r}: category {category!r} is not active", "activate it, or name another"
        )
    return category_sweeps(case.template, case.rows)[category]


def _promised(case: _GoalInputs, goal: PromisedGoal) -> SingleGoalSolution:
    """One shared threshold in closed form: the most lenient for goals that refusals break, else the
    strictest.

    A goal about one category's token, or about a slice, leaves other refusals free: then the
    threshold that catches the most.
    """
    grouped = grouped_scores(case.template, case.rows, shared=True)
    losses = losses_of([goal], case.template, grouped, seed=0)
    task = CertifyTask(
        grouped=grouped,
        losses=losses,
        objective=objective_of(None, grouped, losses),
        delta=case.delta,
        fixed={},
    )
    limits = shared_limits(task)
    if not isinstance(limits, tuple):
        tried = Tried(method="shared", procedure=certify_shared, task=task, found=limits)
        failure = with_outlook(tried, failure_of(tried))
        raise GoalInfeasible(
            f"goal {goal.text!r} at {case.confidence:.0%} confidence: {failure.reason}",
            what_would_do(failure),
        )
    threshold = limits[0] if goal.errs_when == "refused" else limits[1]
    if goal.part:
        threshold = best_within(grouped, task.objective, limits[:1], limits[1:])[0]
    return SingleGoalSolution(
        thresholds=dict.fromkeys(case.emittable, threshold),
        method=grouped.method(METHOD),
        certified=evidence_of(losses, grouped.refused([threshold]), task.everyone, case.delta)[0],
    )
