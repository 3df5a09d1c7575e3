"""Which procedures a certification tries, and the task of each.

1. Where some rows have a label by hand, that label counts, and only these rows are tested.
2. Methods are chosen by counts of labels, never by scores of rows that are tested: that is valid.
3. Each method gets its task: the goals as losses, on which rows to learn and to test them, and what
   to prefer among certified thresholds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from demur.base.errors import DataError, GoalError
from demur.core.goals.goal import Goal
from demur.core.goals.kinds import Optimum, TargetRate
from demur.core.goals.promised import promised
from demur.core.policy import Policy
from demur.core.rates import decimal_fraction, most_errors
from demur.stats.labelled import LabelledScores
from demur.stats.thresholds.losses import (
    counted_by,
    losses_by_hand,
    losses_of,
    require_steerable,
)
from demur.stats.thresholds.objective import objective_of
from demur.stats.thresholds.plan import BAND, ORDERED, worth_dividing
from demur.stats.thresholds.problem import Arrived, GroupedScores, Loss
from demur.stats.thresholds.procedures.hand_labels import (
    asked_by_hand,
    believed,
    hand_units,
    losses_tested,
    may_beat_exact_tests,
    share_beside_hands,
    tells_apart,
)
from demur.stats.thresholds.procedures.search import split_rows, uneven
from demur.stats.thresholds.procedures.task import CertifyTask, Shares
from demur.stats.thresholds.target_rates import rates_of_categories

# A path learns on some rows and tests on the rest. With fewer errors than this to spend there, one
# shared threshold, tested on all rows, catches more (bench/certify.py). Counts of labels decide,
# never scores: that keeps it valid.
ENOUGH_ERRORS = 20
_CORRECTED_DELTA = 0.1  # of delta, for a correction beside exact tests

CORRECTED = "corrected"  # follows from the rows, not from the caller


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CertifyCase:
    """What is asked of a certification, and the rows to certify on."""

    goals: Sequence[Goal]
    template: Policy
    rows: LabelledScores  # a hand's label counts, where there is one
    method: str  # "auto", or the one to use
    confidence: float  # that all promises hold together
    seed: int
    learning: float  # share of the rows to learn an order on
    shares: Shares | None  # of level and delta per category
    arrived: Arrived | None = None  # how rows came; anytime only
    judged: LabelledScores | None = None  # the rows by the judge's labels; None: no judge, no hands

    @property
    def delta(self) -> float:
        """1 - confidence, without the float residue of 1 - 0.95."""
        return float(1 - decimal_fraction(self.confidence))

    @property
    def learn_share(self) -> float:
        """The share of the rows that goals may test to learn an order on."""
        if self.judged is None:
            return self.learning
        return share_beside_hands(self.judged, self.learning)

    def tested(self, losses: Sequence[Loss]) -> tuple[tuple[Loss, Loss], ...]:
        """Each loss to learn by, with it on the rows that may be tested."""
        if self.rows.hand_N is None:
            return tuple((loss, loss) for loss in losses)
        return losses_tested(losses, self.rows)


def counted_by_hand(case: CertifyCase, asked: Sequence[Goal]) -> CertifyCase:
    """The rows with the hand's labels in place of the judge's. Goals that count no label are tested
    on all rows.
    """
    rows = case.rows
    if rows.hand_N is None:
        return case
    label_N = np.where(rows.by_hand_N, rows.hand_N, rows.label_N)
    counted = any(promised(goal).labelled for goal in asked)
    by_hand = replace(rows, label_N=label_N, hand_N=rows.hand_N if counted else None)
    by_hand = asked_by_hand(by_hand, case.seed)
    return replace(case, rows=by_hand, judged=rows if counted else None)


def _board(case: CertifyCase) -> GroupedScores:
    for goal in case.goals:
        require_steerable(goal, case.template)
    shared = case.template.rule != "heaviest"
    # goals about stops are certified apart from those about first decisions
    return counted_by(case.goals[0], case.template, case.rows, shared=shared)


def requests(
    case: CertifyCase, asked: Sequence[Goal], delta: float
) -> list[tuple[str, CertifyTask]]:
    """The methods to try, and what each is to certify at its share of delta. Counts of labels
    choose them, never scores: that is valid.
    """
    alone = case.template.rule != "heaviest"
    if not case.rows.to_refuse:
        raise DataError(
            f"none of the {len(case.rows.label_N)} rows is to be refused: nothing says what "
            "thresholds should catch",
            "add rows to be refused to the calibrate split",
        )
    grouped = _board(case)
    losses = losses_of(asked, case.template, grouped, case.seed)
    if grouped.deferring:
        _check_band(case)
        return [(BAND, replace(_asked(case, grouped, losses), delta=delta))]
    methods = _chosen(case, grouped, [tested for _, tested in case.tested(losses)], delta)
    found = []
    for method in methods:
        if method == "shared" and not alone:
            one = grouped.at_one_threshold()
            shared = losses_of(asked, case.template, one, case.seed)
            found.append((method, _asked(case, one, shared)))
        else:
            found.append((method, _asked(case, grouped, losses)))
        if method == CORRECTED:  # it tests on other rows, and learns on its share of them
            found[-1] = (method, replace(found[-1][1], learn_share=case.learning))
    deltas = deltas_of([method for method, _ in found], delta)
    return [(m, replace(task, delta=part)) for (m, task), part in zip(found, deltas, strict=True)]


def has_first_choice(case: CertifyCase, losses: Sequence[Loss], methods: int) -> bool:
    """Whether one of several methods is chosen before the others, by rows that are not tested."""
    return (
        case.method == "auto"
        and case.judged is not None
        and methods > 1
        and tells_apart(losses, case.rows, case.learn_share)
    )


def _check_band(case: CertifyCase) -> None:
    """Raise GoalError on what no band is calibrated with: another method, labels by a judge, rates
    to be met.
    """
    beside = next(
        (
            words
            for there, words in (
                (case.method != "auto", f"method {case.method!r}"),
                (case.rows.hand_N is not None, "labels by a judge"),
                (any(isinstance(g, TargetRate) for g in case.goals), "a target rate"),
            )
            if there
        ),
        None,
    )
    names = [n for n in case.template.taxonomy.names if case.template.category(n).may_emit]
    idle = [n for n in names if case.template.category(n).on_defer is None]
    if idle and case.template.rule != "heaviest":
        raise GoalError(
            f"rule {case.template.rule!r} is calibrated with one threshold and one band for all "
            f"categories, and {idle[0]!r} does not defer",
            "let all active categories defer, or use rule 'heaviest'",
        )
    if beside is not None:
        raise GoalError(
            f"a category that defers beside {beside}: its two thresholds are certified in pairs, "
            "by labelled rows",
            "use method 'auto' and goals such as 'false_refusal <= 0.02; deferral <= 0.1'",
        )


def _chosen(
    case: CertifyCase, grouped: GroupedScores, losses: Sequence[Loss], delta: float
) -> list[str]:
    """The method that was asked for, if it fits; or those that do, to take the best of."""
    alone = case.template.rule != "heaviest"
    wants_rate = any(isinstance(goal, TargetRate) for goal in case.goals)
    methods: list[str] = [case.method]
    if case.method == "auto":
        methods = _fitting_methods(case, grouped, losses, delta)
    moving = next((loss.goal for loss in losses if not loss.goal.monotone), None)
    if moving is not None and case.method != "auto":
        raise GoalError(
            f"method {case.method!r} rests on rates that move one way as a threshold does, and "
            f"{moving.text!r} may rise or fall",
            "use 'auto'",
        )
    if moving is not None:
        return methods
    for method in methods:
        if alone and method not in ("shared", "anytime"):
            raise GoalError(
                f"method {method!r} needs a threshold per category",
                "use rule 'heaviest', or 'auto'",
            )
        if wants_rate and method not in ("path", "vectors"):
            raise GoalError(
                "a target rate of one category beside promises needs 'path' or 'vectors'",
                "use 'auto'",
            )
    corrects = case.method == "auto" and case.judged is not None and not wants_rate
    # one that is chosen before the others has nearly all of delta
    exact = methods[:1] if has_first_choice(case, losses, len(methods)) else methods
    if corrects and may_beat_exact_tests(
        losses, grouped.rows, deltas_of([*exact, CORRECTED], delta)
    ):
        methods.append(CORRECTED)
    return methods


def _fitting_methods(
    case: CertifyCase, grouped: GroupedScores, losses: Sequence[Loss], delta: float
) -> list[str]:
    """What "auto" tries. One threshold for all may never refuse a category whose probabilities are
    lower than others'; a path may be learnt on rows that say too little.

    So both are tried, and where only false refusals are promised a path that catches evenly, too;
    beside a judge all of them (procedures.first_choice).
    Where rows are so few that a share of delta allows far fewer errors, one of them gets all of
    delta: the scores of rows that are not tested say which.
    """
    if not all(loss.goal.monotone for loss in losses):
        return [ORDERED]
    if case.template.rule != "heaviest" or len(grouped.groups) == 1:
        return ["shared"]
    if any(isinstance(goal, TargetRate) for goal in case.goals):
        return ["path"]
    # A path that catches evenly is learnt on rows to be refused: no goal may test these.
    even = ["even"] if all(loss.goal.of_answerable for loss in losses) else []
    if has_first_choice(case, losses, methods=2):
        return ["shared", *even, "path"]
    few = _fewest_errors(case, losses) < ENOUGH_ERRORS
    # Rows that a judge labelled teach a path, and all rows labelled by hand are left to test it.
    offers = [["shared", *even, "path"]] if case.judged is not None or not few else []
    offers.append(["shared", *even])
    for methods in offers:
        if all(_worth_dividing(loss, delta, len(methods)) for loss in losses):
            return methods
    free_N = split_rows(grouped, 0.0, case.seed, losses).learn_N & case.rows.by_hand_N
    return even if even and uneven(grouped, free_N) else ["shared"]


def _worth_dividing(loss: Loss, delta: float, parts: int) -> bool:
    """Whether a part of delta allows nearly as many errors as the whole."""
    of = loss.counted(loss.among_N).units
    whole, part = (most_errors(of, loss.level, d) or 0 for d in (delta, delta / parts))
    return bool(worth_dividing(np.array(whole), np.array(part)))


def _asked(case: CertifyCase, grouped: GroupedScores, losses: Sequence[Loss]) -> CertifyTask:
    judged = case.judged
    fixed: dict[int, float] = {}
    if any(isinstance(goal, TargetRate) for goal in case.goals):
        fixed = _target_rates(case, grouped)
    by_hand: tuple[tuple[Loss, Loss], ...] = ()
    if judged is not None and judged.hand_N is not None:
        by_judge = replace(grouped, rows=judged)
        by_hand = tuple(
            losses_by_hand(loss.goal, case.template, by_judge, judged.hand_N)
            for loss in losses
            if loss.goal.by_hand
        )
    optimum = next((g for g in case.goals if isinstance(g, Optimum)), None)
    objective = objective_of(optimum, grouped, losses)
    guides, tested = zip(*case.tested(losses), strict=True)
    return CertifyTask(
        grouped=grouped,
        losses=tested,
        guides=guides,
        objective=objective if judged is None else believed(objective, judged),
        delta=case.delta,
        fixed=fixed,
        seed=case.seed,
        learn_share=case.learn_share,
        shares=case.shares,
        arrived=case.arrived,
        by_hand=by_hand,
    )


def _target_rates(case: CertifyCase, grouped: GroupedScores) -> dict[int, float]:
    """Thresholds of the categories with a rate to be met, set on rows that no procedure tests."""
    part_N = split_rows(grouped, case.learning, case.seed).learn_N
    if case.judged is not None:
        part_N &= ~hand_units(case.judged)
    return rates_of_categories(case.goals, grouped, part_N)


def _fewest_errors(case: CertifyCase, losses: Sequence[Loss]) -> int:
    """The fewest errors that a goal allows on the rows that a path would be tested on."""
    tested = [int((1.0 - case.learning) * loss.counted(loss.among_N).units) for loss in losses]
    return min(
        most_errors(of, loss.level, case.delta) or 0
        for of, loss in zip(tested, losses, strict=True)
    )


def deltas_of(methods: Sequence[str], delta: float) -> list[float]:
    """The share of delta of each method: even, but for a correction, which is seldom the best."""
    small = _CORRECTED_DELTA if CORRECTED in methods else 0.0
    even = delta * (1.0 - small) / max(sum(method != CORRECTED for method in methods), 1)
    return [delta * small if method == CORRECTED else even for method in methods]
