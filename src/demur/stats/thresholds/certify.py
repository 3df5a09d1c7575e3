"""Which procedure certifies several promises, and what is given up where it cannot.

Nothing is given up unless the caller said so beforehand, and what the caller said is written into
every promise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from demur.base.errors import DataError, GoalError
from demur.core.goals.goal import Goal
from demur.core.goals.kinds import Optimum, TargetRate
from demur.core.goals.promised import PromisedGoal
from demur.core.policy import Policy
from demur.core.rates import decimal_fraction, most_errors
from demur.core.settings import Method
from demur.stats.labelled import LabelledScores
from demur.stats.slices import (
    expand_slices,
    instead_of_small,
    small_slices,
    small_slices_words,
    together_words,
)
from demur.stats.thresholds.explain import failure_of
from demur.stats.thresholds.losses import (
    grouped_scores,
    losses_by_hand,
    losses_of,
    require_steerable,
)
from demur.stats.thresholds.objective import objective_of
from demur.stats.thresholds.problem import GroupedScores, Loss
from demur.stats.thresholds.procedures.budgets import (
    certify_budgets,
    certify_graphical,
    check_shares,
)
from demur.stats.thresholds.procedures.judged import certify_judged
from demur.stats.thresholds.procedures.search import split_rows, uneven
from demur.stats.thresholds.procedures.sequences import certify_even, certify_path, certify_vectors
from demur.stats.thresholds.procedures.shared import certify_shared
from demur.stats.thresholds.procedures.task import CertifyTask, Finding, NotCertified
from demur.stats.thresholds.results import Certified, Failure, Infeasible, Uncertified
from demur.stats.thresholds.target_rates import rates_of_categories

# A path learns on some rows and tests on the rest. With fewer errors than this to spend there, one
# shared threshold, tested on all rows, catches more (bench/certify.py). Counts of labels decide,
# never scores: that keeps it valid.
ENOUGH_ERRORS = 20
# delta is divided over procedures where each may still err so often, as a share of the whole
WORTH_DIVIDING = 0.75

_METHODS: Mapping[str, Callable[[CertifyTask], Finding]] = {
    "shared": certify_shared,
    "even": certify_even,
    "path": certify_path,
    "vectors": certify_vectors,
    "budgets": certify_budgets,
    "graphical": certify_graphical,
}
_JUDGED = "judged"  # follows from the rows, not from the caller
_PROCEDURES = {**_METHODS, _JUDGED: certify_judged}


@dataclass(frozen=True, kw_only=True, slots=True)
class CertifyOptions:
    """The settings of a certification: method, confidence, and the fallback if it fails.

    Raises GoalError on an invalid confidence, share, method or on_failure.
    """

    confidence: float = 0.95  # that all promises hold together
    method: Method = "auto"  # what fits the goals and the counts of labels: see _fitting_methods
    seed: int = 0
    learn_share: float = 0.4  # of the rows, to learn an order on; path and vectors
    # per category, sum 1; budgets and graphical. None: equal
    shares: Mapping[str, float] | None = None
    # stop; hard_only: give up soft goals, the largest number first; keep:<name of a policy>
    on_failure: str = "stop"
    kept: Policy | None = None  # the policy of keep:<name>
    # whether a failure should say what blocks and what would do: a few linear programs
    explained: bool = True

    def __post_init__(self) -> None:
        if not 0.0 < self.confidence < 1.0:
            raise GoalError(f"confidence {self.confidence} is not in (0, 1)", "0.95 is usual")
        if not 0.0 < self.learn_share < 1.0:
            raise GoalError(f"learn_share {self.learn_share} is not in (0, 1)", "0.4 is usual")
        if self.method != "auto" and self.method not in _METHODS:
            raise GoalError(
                f"unknown method {self.method!r}", f"known: auto, {', '.join(_METHODS)}"
            )
        if self.shares is not None:
            if self.method not in ("budgets", "graphical"):
                raise GoalError(
                    f"method {self.method!r} divides nothing by shares",
                    "use 'budgets' or 'graphical'",
                )
            check_shares(self.shares)
        if self.on_failure not in ("stop", "hard_only") and not self.on_failure.startswith("keep:"):
            raise GoalError(
                f"unknown on_failure {self.on_failure!r}", "known: stop, hard_only, keep:<policy>"
            )
        if self.on_failure.removeprefix("keep:") != (
            self.kept.name if self.kept else self.on_failure
        ):
            raise GoalError(
                f"on_failure {self.on_failure!r} and a kept policy of that name go together",
                "give both",
            )

    @property
    def delta(self) -> float:
        """1 - confidence, without the float residue of 1 - 0.95."""
        return float(1 - decimal_fraction(self.confidence))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _CertifyInputs:
    goals: Sequence[Goal]
    template: Policy
    rows: LabelledScores
    options: CertifyOptions


@dataclass(frozen=True, kw_only=True, slots=True)
class Granted:
    """What was certified, and the soft goals given up for it."""

    certified: Certified
    kept: tuple[Goal, ...]
    given_up: tuple[Goal, ...]


def certify(
    goals: Sequence[Goal], template: Policy, rows: LabelledScores, options: CertifyOptions
) -> Granted | Failure:
    """Thresholds that keep all promised goals together, as far as on_failure lets soft ones go.

    Beside promises the goals may hold one optimum (f1, youden, cost), preferred among certified
    thresholds, and target rates of single categories, set first. Soft goals are given up only under
    "hard_only"; delta is then split evenly over the sets that are tried, so the promise holds
    whichever is granted. Raises GoalError, DataError.
    """
    goals = expand_slices(goals, template, rows)
    case = _CertifyInputs(goals=goals, template=template, rows=rows, options=options)
    # delta is split evenly over the sets that are tried, whichever is granted (union bound)
    goal_sets = sets_to_try([g for g in goals if isinstance(g, PromisedGoal)], options)
    if not goal_sets:
        raise GoalError(
            "no goal is a promise, nothing can be certified", "such as 'false_refusal <= 0.05'"
        )
    failure: Failure | None = None
    for asked in goal_sets:
        if few := _too_few_in_slices(case, asked, options.delta / len(goal_sets)):
            failure = few
            continue
        explained = options.explained and asked is goal_sets[-1]
        found = _best(case, asked, options.delta / len(goal_sets), explained=explained)
        if isinstance(found, Certified):
            gone = tuple(g for g in goals if isinstance(g, PromisedGoal) and g not in asked)
            return Granted(certified=found, kept=tuple(asked), given_up=gone)
        failure = found
    assert failure is not None  # there is at least one set
    return failure


def _best(
    case: _CertifyInputs, asked: Sequence[Goal], delta: float, *, explained: bool
) -> Certified | Failure:
    """The best of what one or several procedures certify, each at an even share of delta.

    All of them hold together with 1 - delta (union bound), so that it may be chosen by whatever the
    rows show: by what is caught on all of them, also on those that certify.
    """
    tried = _requests(case, asked, delta)
    best: tuple[float, Certified] | None = None
    failed: tuple[CertifyTask, Uncertified | NotCertified] | None = None
    for method, own in tried:
        task = replace(own, delta=delta / len(tried))
        found = _PROCEDURES[method](task)
        if not isinstance(found, Certified):
            failed = (task, found) if failed is None else failed
            continue
        names = [task.grouped.names.index(group[0]) for group in task.grouped.groups]
        value = task.objective.value(task.grouped.refused([found.thresholds[at] for at in names]))
        if best is None or value > best[0]:
            best = (value, found)
    if best is None:
        assert failed is not None  # something is always tried
        task, found = failed
        if explained or isinstance(found, Uncertified) or found.vacuous:
            return failure_of(task, found)
        return _unexplained(task)
    others = (
        f"; the best of {', '.join(m for m, _ in tried)}, each at delta {delta / len(tried):.3g}"
    )
    promised = [goal for goal in asked if isinstance(goal, PromisedGoal)]
    others = others if len(tried) > 1 else ""
    together = together_words(promised, best[1].tested_at, case.options.confidence)
    return replace(best[1], method=best[1].method + others + together)


def _too_few_in_slices(
    case: _CertifyInputs, asked: Sequence[PromisedGoal], delta: float
) -> Uncertified | None:
    """All slices of too few rows at once, and what to ask for instead; None where there are none.

    Labels by hand are tested by other bounds, which say themselves what they need.
    """
    if case.rows.hand_N is not None:
        return None
    small = small_slices(asked, case.template, case.rows, delta)
    if not small:
        return None
    return Uncertified(
        reason=small_slices_words(small, asked),
        blocking=small[0].goal,
        rows=small[0].rows,
        rows_needed=small[0].needed,
        evidence=(),
        instead=instead_of_small(small, asked),
    )


def _unexplained(task: CertifyTask) -> Uncertified:
    first = task.losses[0]
    return Uncertified(
        reason="not certified, and not asked why",
        blocking=first.goal,
        rows=first.of(task.everyone),
        rows_needed=None,
        evidence=(),
    )


def what_would_do(failure: Failure) -> str:
    """The hint that goes with a failure."""
    blocking = failure.blocking
    if isinstance(failure, Infeasible):
        return (
            f"{blocking.text!r} blocks: loosen it or another goal, or train a model whose "
            "scores tell more apart"
        )
    if failure.rows_needed is None or failure.rows_needed <= failure.rows:
        return f"{blocking.text!r} blocks: loosen it or another goal, or collect more labelled rows"
    pool = ", or pool its category with another: [a + b]" if blocking.category else ""
    pool = pool or (", or ask for a wider slice" if blocking.where else "")
    pool = f"; or {failure.instead}" if failure.instead else pool
    have, needed = failure.rows, failure.rows_needed
    return (
        f"{blocking.text!r} blocks: about {needed} rows of its kind would do, {have} are "
        f"there{pool}"
    )


def sets_to_try(
    promised: Sequence[PromisedGoal], options: CertifyOptions
) -> list[list[PromisedGoal]]:
    """Goal sets, all of them first; under hard_only softer ones leave step by step. Delta is split
    over the sets.
    """
    sets = [list(promised)]
    if options.on_failure == "hard_only":
        for priority in sorted({g.soft for g in promised if g.soft is not None}, reverse=True):
            sets.append([g for g in sets[-1] if g.soft != priority])
    return [s for s in sets if s]


def _board(case: _CertifyInputs, *, shared: bool) -> GroupedScores:
    for goal in case.goals:
        require_steerable(goal, case.template)
    return grouped_scores(case.template, case.rows, shared=shared)


def _requests(
    case: _CertifyInputs, asked: Sequence[Goal], delta: float
) -> list[tuple[str, CertifyTask]]:
    """The methods to try, and what each is to certify. Counts of labels choose them, never scores:
    that is valid.
    """
    options, alone = case.options, case.template.rule != "heaviest"
    if not case.rows.to_refuse:
        raise DataError(
            f"none of the {len(case.rows.label_N)} rows is to be refused: nothing says what "
            "thresholds should catch",
            "add rows to be refused to the calibrate split",
        )
    grouped = _board(case, shared=alone)
    losses = losses_of(asked, case.template, grouped, options.seed)
    methods = _chosen(case, grouped, losses, delta)
    found = []
    for method in methods:
        if method == "shared" and not alone:
            one = _board(case, shared=True)
            shared = losses_of(asked, case.template, one, options.seed)
            found.append((method, _asked(case, one, shared)))
        else:
            found.append((method, _asked(case, grouped, losses)))
    return found if case.rows.hand_N is None else [(_JUDGED, task) for _, task in found]


def _chosen(
    case: _CertifyInputs, grouped: GroupedScores, losses: Sequence[Loss], delta: float
) -> list[str]:
    """The method that was asked for, if it fits; or those that do, to take the best of."""
    options, alone, judged = (
        case.options,
        case.template.rule != "heaviest",
        case.rows.hand_N is not None,
    )
    wants_rate = any(isinstance(goal, TargetRate) for goal in case.goals)
    methods: list[str] = [options.method]
    if options.method == "auto":
        methods = _fitting_methods(case, grouped, losses, delta)
    for method in methods:
        if alone and method != "shared":
            raise GoalError(
                f"method {method!r} needs a threshold per category",
                "use rule 'heaviest', or 'auto'",
            )
        if wants_rate and method not in ("path", "vectors"):
            raise GoalError(
                "a target rate of one category beside promises needs 'path' or 'vectors'",
                "use 'auto'",
            )
        if judged and method not in ("shared", "vectors"):
            raise GoalError(
                f"method {method!r} takes labels at their word", "use 'auto', 'shared' or 'vectors'"
            )
    return methods


def _fitting_methods(
    case: _CertifyInputs, grouped: GroupedScores, losses: Sequence[Loss], delta: float
) -> list[str]:
    """What "auto" tries. One threshold for all may never refuse a category whose probabilities are
    lower than others'; a path may be learnt on rows that say too little.

    So both are tried, and where only false refusals are promised a path that catches evenly, too.
    Where rows are so few that a share of delta allows far fewer errors, one of them gets all of
    delta: scores of rows that the goals do not speak of, and that are not tested, say which.
    """
    options, judged = case.options, case.rows.hand_N is not None
    if case.template.rule != "heaviest" or len(grouped.groups) == 1:
        return ["shared"]
    if judged:
        return ["shared"] if len(case.goals) == 1 else ["vectors"]
    if any(isinstance(goal, TargetRate) for goal in case.goals):
        return ["path"]
    # A path that catches evenly is learnt on rows to be refused: no goal may test these.
    even = ["even"] if all(loss.goal.of_answerable for loss in losses) else []
    few = _fewest_errors(losses, options) < ENOUGH_ERRORS
    methods = ["shared", *even] if few else ["shared", *even, "path"]
    everyone_N = np.ones(len(grouped.logq_N), dtype=bool)
    for loss in losses:
        of = loss.counted(everyone_N).units
        whole, share = (most_errors(of, loss.level, d) or 0 for d in (delta, delta / len(methods)))
        if share < WORTH_DIVIDING * whole or not share:
            free_N = split_rows(grouped, 0.0, options.seed, losses).learn_N
            return even if even and uneven(grouped, free_N) else ["shared"]
    return methods


def _asked(case: _CertifyInputs, grouped: GroupedScores, losses: Sequence[Loss]) -> CertifyTask:
    options, hand_N = case.options, case.rows.hand_N
    by_hand: tuple[tuple[Loss, Loss], ...] = ()
    if hand_N is not None:
        by_hand = tuple(
            losses_by_hand(loss.goal, case.template, grouped, hand_N) for loss in losses
        )
    return CertifyTask(
        grouped=grouped,
        losses=tuple(losses),
        objective=objective_of(
            next((g for g in case.goals if isinstance(g, Optimum)), None), grouped, losses
        ),
        delta=options.delta,
        fixed=rates_of_categories(
            case.goals, grouped, split_rows(grouped, options.learn_share, options.seed).learn_N
        ),
        seed=options.seed,
        learn_share=options.learn_share,
        shares=options.shares,
        by_hand=by_hand,
    )


def _fewest_errors(losses: Sequence[Loss], options: CertifyOptions) -> int:
    """The fewest errors that a goal allows on the rows that a path would be tested on."""
    tested = [
        int((1.0 - options.learn_share) * loss.counted(loss.among_N).units) for loss in losses
    ]
    return min(
        most_errors(of, loss.level, options.delta) or 0
        for of, loss in zip(tested, losses, strict=True)
    )
