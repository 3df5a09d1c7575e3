"""plan-labels: goals -> how many labels could certify them, before anything is fitted. Writes no
file; reads none but the scored test rows of a run that is named (for_run).

A promise that a goal at level a holds with error probability delta needs a number of labels that
depends on a and delta alone. What the procedures take off beforehand (demur.stats.thresholds):

1. hard_only tries several sets of goals, and divides delta by their number (_planned).
2. Goals that err on either side share delta; budgets and graphical procedures divide level and
   delta over categories; path and vectors learn an order on part of the rows, and test on the
   rest; anytime pays for every look: demur.stats.thresholds.plan.MethodPlan.
3. First decisions and stops are certified apart, each with half of delta where both are asked.
4. All goals are to be certified together with the probability of the plan, so that each may fail
   with its share of the rest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from demur.base.arrays import Doubles
from demur.base.errors import ConfigError, GoalError
from demur.core.example import Example
from demur.core.goals.parse import parse_goals
from demur.core.goals.promised import PromisedGoal, promised
from demur.core.policy import CategoryPolicy, Policy
from demur.core.score import ScoreTable
from demur.core.settings import NONE, CalibrateSettings, Method, PlanFailure
from demur.core.taxonomy import Taxonomy
from demur.core.threshold import NEVER
from demur.stats.labelled import LabelledScores, label_scores
from demur.stats.slices import expand_slices
from demur.stats.thresholds.certify import CertifyOptions, sets_to_try
from demur.stats.thresholds.losses import goal_rows
from demur.stats.thresholds.plan import (
    AUTO,
    BAND,
    DIVIDING,
    ORDERED,
    SUCCESS,
    GoalTest,
    MethodPlan,
    PlanRow,
    likely_rates,
    plan_row,
)
from demur.stats.thresholds.procedures.at_hand import rates_at_hand
from demur.stats.thresholds.procedures.requests import CertifyCase
from demur.stats.units import CountedRows, count_rows
from demur.store.models.seen_file import require_unseen_splits
from demur.store.rows import read_policy_rows
from demur.store.run import RunFolder
from demur.store.scores.tables import read_scores

__all__ = [
    "Config",
    "Method",
    "OnFailure",
    "PlanRow",
    "for_rows",
    "for_run",
    "for_scored_rows",
    "run",
    "sentence",
]

OnFailure = PlanFailure


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Goals to promise together, and the labels at hand."""

    goals: tuple[str, ...]
    # labelled rows: "respond" for those to be answered, or a category
    have: Mapping[str, int] | None = None
    confidence: float = 0.95  # that all promises hold together
    # demur.stats.thresholds.solve. auto: the best of several, or what precision and deferrals need
    method: Method = "auto"
    # hard_only: delta is split over the sets of goals that are tried
    on_failure: OnFailure = "stop"
    # that may be refused with; budgets and graphical divide levels by it
    categories: int | None = None
    # instead: category -> its share of level and delta, sum 1
    shares: Mapping[str, float] | None = None
    success: float = SUCCESS  # the probability that all goals are certified together
    # errors among the labels at hand, of thresholds not chosen by them; keys as in `have`. The plan
    # averages over the true rates that they leave open; without them it assumes half the level
    errors: Mapping[str, int] | None = None

    def __post_init__(self) -> None:
        if not 0.0 < self.success < 1.0:
            raise GoalError(f"success {self.success} is not in (0, 1)", "0.8 is usual")
        if self.categories is not None and self.categories < 1:
            raise GoalError(f"levels divided over {self.categories} categories", "at least 1")
        if below := [kind for kind, n in (self.have or {}).items() if n < 0]:
            raise GoalError(
                f"{(self.have or {})[below[0]]} labels of {below[0]!r}",
                "a number of rows, 0 or more",
            )
        for kind, errors in (self.errors or {}).items():
            if not 0 <= errors <= (self.have or {}).get(kind, -1):
                raise GoalError(
                    f"{errors} errors among the labels of {kind!r}",
                    "errors are counted among labels: between 0 and their number",
                )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Known:
    """What is known of one goal's rows and rates before a plan."""

    have: int | None  # labels of rows that it is about; None: not known
    exact: float = 1.0  # the part of delta that its test on drawn rows gets
    rate_Q: Doubles | None = None  # likely true rates of the thresholds; None: not known
    counted: float = 1.0  # the part of these rows that decisions leave in its denominator


def run(config: Config) -> tuple[PlanRow, ...]:
    """Plan the labels of each goal, with the delta and the rows that the method takes off.

    Budgets divide level and delta over the categories, so their rows hold for one category's share
    of the level, the smallest where shares are given; the graphical procedure begins there and may
    need less. The labels at hand count as unknown for a goal about rows to be answered if no number
    of them is given, and for a precision if no number of refused requests is. Raises GoalError on a
    goal that is not a promise or contradicts another, a category without a count, a goal that the
    method cannot certify, shares that do not sum to 1, or a bad confidence.
    """
    goals = tuple(map(promised, parse_goals(config.goals)))
    counts = dict(config.have) if config.have else None
    have = [None if counts is None else goal.rows_told(counts) for goal in goals]
    known = [
        _Known(have=n, rate_Q=_rates(config, goal, n)) for goal, n in zip(goals, have, strict=True)
    ]
    return _planned(config, goals, known)


def for_rows(
    config: Config, examples: Sequence[Example], taxonomy: Taxonomy, share: float = 1.0
) -> tuple[PlanRow, ...]:
    """Plan the promises among a config's goals on rows at hand; each slice of "in every ..." is a
    goal of its own.

    share: part of the rows that thresholds are chosen on, the others being a calibrator's. Raises
    GoalError as run does, and on slices that no row is in.
    """
    asked = [goal for goal in parse_goals(config.goals) if goal.promised]
    if not asked or not examples:
        return ()
    rows, template = _unscored(examples, taxonomy), _template(CalibrateSettings(), taxonomy)
    goals = tuple(map(promised, expand_slices(asked, template, rows)))
    # Rows made from one another, or of one session, are one piece of evidence. How many rows a
    # precision counts depends on scores.
    known = [
        _Known(have=math.floor(c.units * share) if goal.monotone else None, exact=c.drawn_share)
        for goal, c in zip(goals, _counted(goals, rows, taxonomy), strict=True)
    ]
    found = _planned(config, goals, known)
    return tuple(row for row in found if row.have is not None)


def for_run(
    config: Config, settings: CalibrateSettings, taxonomy: Taxonomy, folder: RunFolder
) -> tuple[PlanRow, ...]:
    """Plan the promises among a config's goals for a run's calibrate rows, by the scores and labels
    of its test rows, before a calibrator.

    The test rows say which rates are in reach; of the calibrate rows only numbers are read, so that
    no promise on them is chosen by what they show. Raises GoalError as run does, DataError on rows
    that training saw or that cannot tell, ArtifactError on a run without scores.
    """
    if settings.cascade:
        raise ConfigError(
            "calibrate.cascade: a front decides, too, and a plan reads the model's scores alone",
            "name no run, and say what is at hand: --have",
        )
    require_unseen_splits(folder, ["test"])
    table, _ = read_scores(folder.scores("test"))
    rows = label_scores(read_policy_rows(folder, "test", settings.sources), taxonomy, table)
    own = _unscored(read_policy_rows(folder, "calibrate", settings.sources), taxonomy)
    share = 1.0 if settings.calibrator == NONE else 1.0 - settings.calibrator_share
    return for_scored_rows(config, _template(settings, taxonomy), rows, (own, share))


def for_scored_rows(
    config: Config, template: Policy, rows: LabelledScores, own: tuple[LabelledScores, float]
) -> tuple[PlanRow, ...]:
    """Plan goals by what scored rows say of the rates in reach, for other rows. own: these others,
    whose scores are not read, and the part of them that thresholds are chosen on.
    """
    asked = [promised(goal) for goal in parse_goals(config.goals)]
    if stop := next((goal for goal in asked if goal.midway), None):
        raise GoalError(
            f"goal {stop.text!r} speaks of answers that are followed, and a plan by a run reads "
            "first scores alone",
            "name no run, and say what is at hand: --have",
        )
    goals = tuple(map(promised, expand_slices(asked, template, rows)))
    case = CertifyCase(
        goals=goals,
        template=template,
        rows=rows,
        method=config.method,
        confidence=config.confidence,
        seed=0,
        learning=CertifyOptions().learn_share,
        shares=config.shares,
    )
    counted = _counted(goals, own[0], template.taxonomy)
    known = [
        _Known(
            have=math.floor(c.units * own[1]),
            exact=c.drawn_share,
            rate_Q=one.rate_Q,
            counted=one.counted,
        )
        for one, c in zip(rates_at_hand(case, goals), counted, strict=True)
    ]
    active = sum(category.may_emit for category in template.categories)
    found = _planned(replace(config, categories=active), goals, known)
    # Of all rows, refused or not: the share that is refused is known here.
    return tuple(
        row if goal.monotone else replace(row, labels="any")
        for row, goal in zip(found, goals, strict=True)
    )


def _template(settings: CalibrateSettings, taxonomy: Taxonomy) -> Policy:
    """A policy without thresholds, under the rule of these settings."""
    categories = tuple(
        CategoryPolicy(
            active=name not in settings.inactive,
            locked=name in settings.locked,
            on_defer=settings.on_defer.get(name),
            defer_text=settings.defer_text.get(name, ""),
            threshold=NEVER,
            defer_threshold=NEVER if name in settings.on_defer else None,
        )
        for name in taxonomy.names
    )
    return Policy(name="plan", taxonomy=taxonomy, rule=settings.rule, categories=categories)


def _unscored(examples: Sequence[Example], taxonomy: Taxonomy) -> LabelledScores:
    """Labelled rows with equal scores, as stand-ins: which rows a goal is about is read from
    labelled scores.
    """
    nothing_NC = np.full(
        (len(examples), len(taxonomy.tokens)), -np.log(len(taxonomy.tokens)), dtype=np.float32
    )
    table = ScoreTable(ids=tuple(e.id for e in examples), logp_NC=nothing_NC)
    return label_scores(examples, taxonomy, table)


def _counted(
    goals: Sequence[PromisedGoal], rows: LabelledScores, taxonomy: Taxonomy
) -> list[CountedRows]:
    """The rows that each goal may speak of, as evidence."""
    return [
        count_rows(goal_rows(goal, rows, taxonomy), rows.group_N, rows.count_N, seed=0)
        for goal in goals
    ]


def _rates(config: Config, goal: PromisedGoal, have: int | None) -> Doubles | None:
    """Likely true rates of a goal by the errors at hand; None if not all its labels come with
    errors.
    """
    seen = {kind: n for kind, n in (config.have or {}).items() if kind in (config.errors or {})}
    by_label = not goal.where and goal.monotone
    known = not by_label or not goal.categories or set(goal.categories) <= set(seen)
    if have is None or config.errors is None or not known or goal.rows_told(seen) != have:
        return None
    errors = goal.rows_told(config.errors)
    return None if errors is None else likely_rates(errors, have)


def _planned(
    config: Config, goals: Sequence[PromisedGoal], known: Sequence[_Known]
) -> tuple[PlanRow, ...]:
    """The plans of goals that are promised together."""
    how = CertifyOptions(
        confidence=config.confidence,
        method=config.method,
        shares=config.shares,
        on_failure=config.on_failure,
    )
    tests = _tests(config, how, goals, [one.exact for one in known])
    # Each goal may fail with its share of what the plan may.
    each = 1.0 - (1.0 - config.success) / len(goals)
    rows = (
        plan_row(goal, k.have, replace(test, tested=test.tested * k.counted), each, k.rate_Q)
        for goal, k, test in zip(goals, known, tests, strict=True)
    )
    return tuple(replace(row, success=config.success) for row in rows)


def _tests(
    config: Config, how: CertifyOptions, goals: Sequence[PromisedGoal], exact: Sequence[float]
) -> list[GoalTest]:
    """The tests of each goal. First decisions and stops are certified apart, each with half of
    delta where both are asked.
    """
    tests: dict[int, GoalTest] = {}
    if config.method == "anytime" and any(goal.midway for goal in goals):
        raise GoalError(
            "method 'anytime' beside goals about stops: answers are followed in one look",
            "use 'auto'",
        )
    for midway in {goal.midway for goal in goals}:
        at = [n for n, goal in enumerate(goals) if goal.midway == midway]
        own = [goals[n] for n in at]
        spent = MethodPlan(
            # all that may stop an answer share one threshold
            method="shared" if midway else _method_of(config, own),
            delta=how.delta / len({g.midway for g in goals}) / len(sets_to_try(own, how)),
            learn_share=how.learn_share,
        )
        shares = [[] if midway else _shares(config, goal) for goal in own]
        tests |= dict(zip(at, spent.tests(own, shares, [exact[n] for n in at]), strict=True))
    return [tests[n] for n in range(len(goals))]


def _method_of(config: Config, goals: Sequence[PromisedGoal]) -> str:
    """The procedure that certifies goals about first decisions together. Raises GoalError where it
    is not the one that was asked for, or that cannot.
    """
    follows = ""  # from the goals, whatever is asked for
    if any(goal.errs_when == "deferred" for goal in goals):
        follows = BAND
    elif not all(goal.monotone for goal in goals):
        follows = ORDERED
    asked = config.method
    if follows and asked != AUTO:
        moving = next(g for g in goals if g.errs_when == "deferred" or not g.monotone)
        raise GoalError(
            f"method {asked!r} beside {moving.text!r}, which is certified by vectors of thresholds "
            "that are tested one by one",
            "use 'auto'",
        )
    if asked == "even" and any(goal.errs_when == "answered" for goal in goals):
        raise GoalError(
            "method 'even' learns on rows to be refused, which a goal here speaks of", "use 'path'"
        )
    if asked == AUTO and config.categories == 1:  # nothing to choose from
        return follows or "shared"
    return follows or asked


def _shares(config: Config, goal: PromisedGoal) -> list[float]:
    """The shares into which budgets divide a goal's level and its part of delta, one a category."""
    if config.method not in DIVIDING:
        return []
    if goal.errs_when == "answered":
        raise GoalError(
            f"goal {goal.text!r} cannot be split over categories", "use the method 'vectors'"
        )
    if config.shares is not None:
        if unknown := [c for c in goal.categories if c not in config.shares]:
            known = f"shares given: {', '.join(config.shares)}"
            raise GoalError(f"goal {goal.text!r}: no share of {unknown[0]!r}", known)
        return [config.shares[name] for name in goal.deciders(tuple(config.shares))]
    # A goal that names its categories is divided over these, however many others there are.
    if named := goal.deciders(()):
        return [1.0] * len(named)
    if config.categories is None:
        raise GoalError(
            f"method {config.method!r} divides levels over the categories",
            "say how many: --share 5",
        )
    # Only the number of categories is known: the unnamed ones get made-up names.
    others = config.categories - len(goal.categories)
    return [1.0] * len(goal.deciders((*goal.categories, *(f"another {n}" for n in range(others)))))


def sentence(row: PlanRow) -> str:
    """One goal's plan in words: whether the labels at hand can certify it, and how many would."""
    likely = (
        f"{row.likely} do in {row.success:.0%} of draws if the true rate is {row.rate:.4g}"
        if row.likely is not None
        else f"no number does in {row.success:.0%} of draws: the true rate may well be above the "
        "level"
    )
    wanted = f"{row.needed} labels of requests {row.labels} could certify it without an error"
    if row.have is None:
        return f"{row.goal}: {wanted}, and {likely}"
    if row.allowed is None:
        least = "nothing" if row.lowest is None else f"a level of {row.lowest:.2%} at best"
        return (
            f"{row.goal}: not with {row.have} labels, which can promise {least}; {wanted}, and "
            f"{likely}"
        )
    errors = (
        "no error"
        if row.allowed == 0
        else f"at most {row.allowed} {'error' if row.allowed == 1 else 'errors'}"
    )
    return f"{row.goal}: can be certified with {row.have} labels, if they show {errors}; {likely}"
