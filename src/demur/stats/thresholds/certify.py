"""Which procedure certifies several promises, and what is given up where it cannot.

Nothing is given up unless the caller said so beforehand, and what the caller said is written into
every promise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from demur.base.errors import GoalError
from demur.core.goals.goal import Goal
from demur.core.goals.promised import PromisedGoal
from demur.core.policy import Policy
from demur.core.rates import decimal_fraction
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
from demur.stats.thresholds.plan import BAND, ORDERED
from demur.stats.thresholds.problem import Arrived
from demur.stats.thresholds.procedures.band import certify_band
from demur.stats.thresholds.procedures.band_failure import band_failure
from demur.stats.thresholds.procedures.budgets import (
    certify_budgets,
    certify_graphical,
)
from demur.stats.thresholds.procedures.corrected import certify_corrected
from demur.stats.thresholds.procedures.first_choice import Tries, by_worth
from demur.stats.thresholds.procedures.ordered import certify_ordered
from demur.stats.thresholds.procedures.outlook import with_outlook
from demur.stats.thresholds.procedures.requests import (
    CORRECTED,
    CertifyCase,
    counted_by_hand,
    has_first_choice,
    requests,
)
from demur.stats.thresholds.procedures.sequences import (
    certify_anytime,
    certify_even,
    certify_path,
    certify_vectors,
    learned_path,
)
from demur.stats.thresholds.procedures.shared import certify_shared
from demur.stats.thresholds.procedures.task import (
    CertifyTask,
    Finding,
    NotCertified,
    Tried,
    check_shares,
)
from demur.stats.thresholds.results import Certified, Failure, Uncertified

_METHODS: Mapping[str, Callable[[CertifyTask], Finding]] = {
    "shared": certify_shared,
    "even": certify_even,
    "path": certify_path,
    "vectors": certify_vectors,
    "budgets": certify_budgets,
    "graphical": certify_graphical,
    "anytime": certify_anytime,
}
_PROCEDURES = {
    **_METHODS,
    CORRECTED: certify_corrected,
    ORDERED: certify_ordered,
    BAND: certify_band,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class CertifyOptions:
    """The settings of a certification: method, confidence, and the fallback if it fails.

    Raises GoalError on an invalid confidence, share, method or on_failure.
    """

    confidence: float = 0.95  # that all promises hold together
    # "auto": what fits the goals and the counts of labels, see procedures.requests
    method: Method = "auto"
    seed: int = 0
    learn_share: float = 0.4  # of the rows, to learn an order on; path and vectors
    # per category, sum 1; budgets and graphical. None: equal
    shares: Mapping[str, float] | None = None
    # stop; hard_only: give up soft goals, the largest number first; keep:<name of a policy>
    on_failure: str = "stop"
    kept: Policy | None = None  # the policy of keep:<name>
    # how rows came, in whose order they are; anytime only. None: all at once
    arrived: Arrived | None = None
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
    whichever is granted. Where some rows have a label by hand, promises hold by the hand's labels:
    orders are learnt on the other rows by a judge's labels, and tested on those labelled by hand.
    Raises GoalError, DataError.
    """
    goals = expand_slices(goals, template, rows)
    case = CertifyCase(
        goals=goals,
        template=template,
        rows=rows,
        method=options.method,
        confidence=options.confidence,
        seed=options.seed,
        learning=options.learn_share,
        shares=options.shares,
        arrived=options.arrived,
    )
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
    case: CertifyCase, asked: Sequence[Goal], delta: float, *, explained: bool
) -> Certified | Failure:
    """The best of what one or several procedures certify, each at its share of delta.

    All of them hold together with 1 - delta (union bound), so that it may be chosen by whatever the
    rows show: by what is caught on all of them, also on those that certify.
    """
    case = counted_by_hand(case, asked)
    tried = tries(case, asked, delta)
    best: tuple[float, Certified] | None = None
    failed: Tried | None = None
    for method, task in tried:
        found = _PROCEDURES[method](task)
        if not isinstance(found, Certified):
            if failed is None:
                procedure = _PROCEDURES[method]
                failed = Tried(method=method, procedure=procedure, task=task, found=found)
            continue
        names = [task.grouped.names.index(group[0]) for group in task.grouped.groups]
        value = task.objective.value(task.grouped.refused([found.thresholds[at] for at in names]))
        if best is None or value > best[0]:
            best = (value, found)
    if best is None:
        assert failed is not None  # something is always tried
        if explained:
            return with_outlook(failed, _why(failed))
        return failed.found if isinstance(failed.found, Uncertified) else _unexplained(failed.task)
    method = best[1].method + _others(tried)
    # Rows labelled by hand may be tested in two readings: the last one of a goal is by requests.
    seen = {e.goal: e for e in best[1].evidence}
    promises = [goal for goal in asked if isinstance(goal, PromisedGoal)]
    together = together_words(promises, best[1].tested_at, case.confidence)
    return replace(
        best[1], method=method + _labels_used(case) + together, evidence=tuple(seen.values())
    )


def tries(case: CertifyCase, asked: Sequence[Goal], delta: float) -> Tries:
    """The methods to try, each with its share of delta: evenly, but for the one that rows without a
    test speak for, where there are such rows. case: by the hand's labels.
    """
    tried = requests(case, asked, delta)
    exact = [(method, task) for method, task in tried if method != CORRECTED]
    if case.judged is None or not has_first_choice(case, exact[0][1].losses, len(exact)):
        return tried
    whole = sum(task.delta for _, task in exact)
    return by_worth(exact, case.judged, whole, learned_path) + tried[len(exact) :]


def _why(tried: Tried) -> Failure:
    """The reason why a procedure certified nothing, in words."""
    found = tried.found
    if isinstance(found, NotCertified) and found.surest is not None:
        return band_failure(tried.task, found)
    return failure_of(tried)


def _others(tried: Sequence[tuple[str, CertifyTask]]) -> str:
    """The methods that were tried, in words; nothing where one was."""
    if len(tried) == 1:
        return ""
    exact = {method: task.delta for method, task in tried if method != CORRECTED}
    if len(set(exact.values())) == 1:
        words = f"{', '.join(exact)}, each at delta {tried[0][1].delta:.3g}"
    else:
        words = ", ".join(f"{method} at delta {delta:.3g}" for method, delta in exact.items())
    further = f", and {CORRECTED} at {tried[-1][1].delta:.3g}" if len(exact) < len(tried) else ""
    return f"; the best of {words}{further}"


def _labels_used(case: CertifyCase) -> str:
    if case.rows.hand_N is None:
        return ""
    known = int(case.rows.by_hand_N.sum())
    return f"; by {known} rows labelled by hand, a judge labelled the others"


def _too_few_in_slices(
    case: CertifyCase, asked: Sequence[PromisedGoal], delta: float
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
