"""From a goal and labelled scores to a policy. Exact over all thresholds, not over a grid; ties go to the stricter one.

Which rules a goal can steer: `heaviest` (a threshold per category), `sum` and `any` (one threshold shared by all active
categories). A refusal rate or a promise over all categories uses one shared threshold under every rule.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from demur.core import bounds
from demur.core.decision import compared_scores, decide_many
from demur.core.errors import DataError, GoalError, GoalInfeasible, TaxonomyError
from demur.core.goal import Goal
from demur.core.guarantee import Certified, Infeasible, Promise
from demur.core.policy import Policy
from demur.core.rates import Rate
from demur.stats.certify import certify_false_refusal
from demur.stats.curve import with_curves
from demur.stats.labelled import LabelledScores
from demur.stats.optimum import best_fbeta, best_linear, exact, totals
from demur.stats.sweep import Sweep, category_sweeps, pooled_sweep

STEERABLE = ("heaviest", "sum", "any")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Case:
    goal: Goal
    template: Policy
    rows: LabelledScores
    confidence: float

    @property
    def delta(self) -> float:
        """1 - confidence, without the float residue of 1 - 0.95."""
        return float(1 - exact(self.confidence))

    @property
    def emittable(self) -> tuple[str, ...]:
        """Categories that may be refused with."""
        return tuple(name for name in self.template.taxonomy.names if self.template.category(name).may_emit)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Choice:
    thresholds: dict[str, float]
    risk: str
    method: str
    certified: bool = False


def choose(goal: Goal, template: Policy, rows: LabelledScores, *, confidence: float, data_digest: str) -> Policy:
    """The template with the thresholds that meet the goal on these rows, one promise, and operating curves.

    template: taxonomy, rule, calibrator, fingerprint, and per category whether it is active, locked, limited; its
    thresholds stay where the goal sets none. confidence: of a promised rate, in (0, 1). data_digest: of rows, scores.

    Goals: natural (the rule becomes `natural`, without thresholds and curves). fbeta, youden, cost: the global optimum
    for "refused or answered". fbeta of a category, macro_fbeta, micro_fbeta: of the tokens, under rule `heaviest` only.
    refusal_rate: the most lenient threshold that refuses at most this share of the rows; of one category under rule
    `heaviest` only. Promises: one shared threshold in closed form; for a threshold per category and for several goals
    together see demur.stats.promises.

    Raises GoalError (the goal does not fit the template), DataError (rows that cannot tell), GoalInfeasible (no
    threshold meets the goal), PolicyError (the threshold falls outside the limits of its category).
    """
    case = _Case(goal=goal, template=template, rows=rows, confidence=confidence)
    if goal.kind == "natural":
        choice = _Choice(thresholds={}, risk="refusal_rate", method="the most probable control token; nothing chosen")
        template = replace(template, rule="natural")
    else:
        _check(case)
        choice = _CHOOSERS[goal.kind](case)
    policy = with_curves(template.with_thresholds(choice.thresholds), rows)
    promise = Promise(
        risk=choice.risk,
        level=goal.level,
        confidence=confidence if choice.certified else None,
        status="certified" if choice.certified else "measured",
        rate=_measured(goal, policy, rows),
        data_digest=data_digest,
        method=choice.method,
    )
    return replace(policy, promises=(promise,))


def _check(case: _Case) -> None:
    template, text = case.template, case.goal.text
    if template.rule not in STEERABLE:
        raise GoalError(
            f"goal {text!r} cannot steer rule {template.rule!r}: it needs {', '.join(STEERABLE)}",
            'set rule = "heaviest", or ask for the goal "natural"',
        )
    forced = [n for n in template.taxonomy.names if template.category(n).override == "force"]
    if forced:
        raise GoalError(f"goal {text!r}: category {forced[0]!r} is forced, no threshold changes anything", "unforce it")
    if not case.emittable:
        raise GoalError(f"goal {text!r}: no category is active, nothing can be refused", "activate a category")
    if not 0.0 < case.confidence < 1.0:
        raise GoalError(f"confidence {case.confidence} is not in (0, 1)", "0.95 is usual")


def _levers(case: _Case) -> dict[tuple[str, ...], Sweep]:
    """The thresholds to choose, each with the categories that share it."""
    if case.template.rule == "heaviest":
        return {(name,): sweep for name, sweep in category_sweeps(case.template, case.rows).items()}
    return {case.emittable: pooled_sweep(case.template, case.rows)}


def _set(levers: dict[tuple[str, ...], Sweep], cuts: Sequence[int]) -> dict[str, float]:
    pairs = zip(levers.items(), cuts, strict=True)
    return {name: float(sweep.threshold_J[cut]) for (names, sweep), cut in pairs for name in names}


def _need_both_kinds(case: _Case) -> None:
    """Raise DataError where the rows cannot weigh one error against the other."""
    rows, text = case.rows, case.goal.text
    for count, kind in ((rows.to_answer, "answered"), (rows.to_refuse, "refused")):
        if count == 0:
            raise DataError(
                f"goal {text!r}: none of the {len(rows.label_N)} rows is to be {kind}, all labels are of one kind",
                "calibrate on rows of both kinds, or ask for a refusal rate",
            )
    if case.template.rule == "heaviest":
        for name in case.emittable:
            if not (rows.label_N == case.template.taxonomy.column(name)).any():
                raise DataError(
                    f"goal {text!r}: no row is to be refused with {name!r}, so its threshold cannot be chosen",
                    f"add such rows to the calibrate split, or make {name!r} inactive",
                )


def _fbeta(case: _Case) -> _Choice:
    _need_both_kinds(case)
    levers = _levers(case)
    cuts, f = best_fbeta(list(levers.values()), case.rows.to_refuse, _given(case.goal.beta))
    risk = f"f{case.goal.beta:g}"
    method = f"{risk} = {float(f):.4f} on these rows: the maximum over all cuts (Dinkelbach 1967)"
    return _Choice(thresholds=_set(levers, cuts), risk=risk, method=method)


def _youden(case: _Case) -> _Choice:
    _need_both_kinds(case)
    levers = _levers(case)
    per_caught, per_false = Fraction(1, case.rows.to_refuse), Fraction(1, case.rows.to_answer)
    cuts = best_linear(list(levers.values()), per_caught, per_false)
    caught, false = totals(list(levers.values()), cuts)
    j = float(caught * per_caught - false * per_false)
    method = f"J = {j:.4f} on these rows: the maximum over all cuts (Youden 1950)"
    return _Choice(thresholds=_set(levers, cuts), risk="youden", method=method)


def _cost(case: _Case) -> _Choice:
    _need_both_kinds(case)
    levers = _levers(case)
    per_missed, per_false = exact(_given(case.goal.cost_missed)), exact(_given(case.goal.cost_false))
    cuts = best_linear(list(levers.values()), per_missed, per_false)
    caught, false = totals(list(levers.values()), cuts)
    cost = float(per_missed * (case.rows.to_refuse - caught) + per_false * false)
    method = f"cost {cost:g} on these {len(case.rows.label_N)} rows: the minimum over all cuts (Elkan 2001)"
    return _Choice(thresholds=_set(levers, cuts), risk="cost", method=method)


def _refusal_rate(case: _Case) -> _Choice:
    category = case.goal.category
    names = (category,) if category else case.emittable
    sweep = _own_sweep(case, category) if category else pooled_sweep(case.template, case.rows)
    return _Choice(
        thresholds=_set({names: sweep}, [_cut_at_rate(case, sweep)]),
        risk=f"refusal_rate[{category}]" if category else "refusal_rate",
        method="order statistic of the calibration scores",
    )


def _cut_at_rate(case: _Case, sweep: Sweep) -> int:
    """Index of the most lenient cut that refuses at most the asked share of all rows, rounded down."""
    n, level = len(case.rows.label_N), exact(_given(case.goal.level))
    allowed = math.floor(level * n)
    cut = int((sweep.cut_J <= allowed).sum()) - 1
    if cut == 0 and level > 0:
        what = f"the strictest threshold refuses {sweep.cut_J[1]}" if len(sweep.cut_J) > 1 else "none can be"
        raise GoalInfeasible(
            f"goal {case.goal.text!r}: {allowed} of {n} rows may be refused, {what}",
            f"calibrate on at least {math.ceil(1 / level)} rows without tied scores, or ask for a higher rate",
        )
    return cut


def _own_sweep(case: _Case, category: str) -> Sweep:
    text = case.goal.text
    if case.template.rule != "heaviest":
        raise GoalError(
            f"goal {text!r} needs rule 'heaviest': under {case.template.rule!r} categories share prompts",
            'set rule = "heaviest", or ask for the refusal rate of all categories together',
        )
    try:
        case.template.taxonomy.index(category)
    except TaxonomyError as e:
        raise GoalError(f"goal {text!r}: {e.message}", e.hint) from e
    if category not in case.emittable:
        raise GoalError(f"goal {text!r}: category {category!r} is not active", "activate it, or name another")
    return category_sweeps(case.template, case.rows)[category]


def _false_refusal(case: _Case) -> _Choice:
    comply_N = case.rows.label_N == 0
    if not comply_N.any():
        raise DataError(
            f"goal {case.goal.text!r}: none of the {len(comply_N)} rows is to be answered, none can be falsely refused",
            "add contrast and benign rows to the calibrate split",
        )
    compared_N = compared_scores(case.template, case.rows.table.logp_NC)[comply_N]
    match certify_false_refusal(compared_N, _given(case.goal.level), case.delta):
        case Infeasible() as no:
            raise GoalInfeasible(
                f"goal {case.goal.text!r} at {case.confidence:.0%} confidence: {no.reason}", _what_would_do(case, no)
            )
        case Certified(threshold=threshold):
            return _Choice(
                thresholds=dict.fromkeys(case.emittable, threshold),
                risk="false_refusal",
                method="Learn then Test, fixed sequence, exact binomial closed form (arXiv 2110.01052)",
                certified=True,
            )


def _what_would_do(case: _Case, no: Infeasible) -> str:
    if no.rows >= no.rows_needed:
        return "the scores do not tell these rows apart: train longer, or promise a higher rate"
    lowest = bounds.upper_bound(0, no.rows, case.delta)
    return f"calibrate on at least {no.rows_needed} rows to be answered, or promise no less than {lowest:.4f}"


def _given(value: float | None) -> float:
    """A field that parse_goal always sets for this kind of goal. Raises GoalError on a hand-made goal without it."""
    if value is None:
        raise GoalError("the goal lacks the number that its kind needs", "make goals with parse_goal")
    return value


def _measured(goal: Goal, policy: Policy, rows: LabelledScores) -> Rate | None:
    decisions = decide_many(policy, rows.table.logp_NC)
    if goal.kind == "false_refusal":
        return Rate(hits=int(decisions.refuses_N[rows.label_N == 0].sum()), of=rows.to_answer)
    if goal.kind in ("natural", "refusal_rate"):
        emitted_N = decisions.refuses_N
        if goal.category is not None:
            emitted_N = decisions.choice_N == policy.taxonomy.column(goal.category)
        return Rate(hits=int(emitted_N.sum()), of=len(rows.label_N))
    return None


_CHOOSERS: dict[str, Callable[[_Case], _Choice]] = {
    "fbeta": _fbeta,
    "youden": _youden,
    "cost": _cost,
    "refusal_rate": _refusal_rate,
    "false_refusal": _false_refusal,
}
