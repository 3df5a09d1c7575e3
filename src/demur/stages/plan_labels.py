"""plan-labels: goals -> how many labels could certify them, before anything is fitted. Reads and
writes no file.

A promise that a goal at level a holds with error probability delta needs a number of labels that
depends on a and delta alone. What the procedures take off beforehand (demur.stats.thresholds):

1. hard_only tries several sets of goals, and divides delta by their number (_planned).
2. Goals that err on either side share delta (_tests).
3. Budgets and graphical procedures divide level and delta over categories (_parts).
4. path and vectors learn an order on part of the rows, and test on the rest (_planned).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from demur.base.errors import GoalError
from demur.core.example import Example
from demur.core.goals.parse import parse_goals
from demur.core.goals.promised import PromisedGoal, promised
from demur.core.policy import CategoryPolicy, Policy
from demur.core.score import ScoreTable
from demur.core.settings import PlanFailure, PlanMethod
from demur.core.taxonomy import Taxonomy
from demur.stats.labelled import label_scores
from demur.stats.slices import expand_slices
from demur.stats.thresholds.certify import CertifyOptions, sets_to_try
from demur.stats.thresholds.losses import goal_rows
from demur.stats.thresholds.plan import PlanRow, plan_row
from demur.stats.units import one_per_group

__all__ = ["Config", "Method", "OnFailure", "PlanRow", "for_rows", "run", "sentence"]

Method = PlanMethod
OnFailure = PlanFailure


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Goals to promise together, and the labels at hand."""

    goals: tuple[str, ...]
    # labelled rows: "respond" for those to be answered, or a category
    have: Mapping[str, int] | None = None
    confidence: float = 0.95  # that all promises hold together
    method: Method = "shared"  # one threshold, or one per category: demur.stats.thresholds.solve
    # hard_only: delta is split over the sets of goals that are tried
    on_failure: OnFailure = "stop"
    # that may be refused with; budgets and graphical divide levels by it
    categories: int | None = None
    # instead: category -> its share of level and delta, sum 1
    shares: Mapping[str, float] | None = None


def run(config: Config) -> tuple[PlanRow, ...]:
    """Plan the labels of each goal, with the delta and the rows that the method takes off.

    Budgets divide level and delta over the categories, so their rows hold for one category's share
    of the level, the smallest where shares are given; the graphical procedure begins there and may
    need less. The labels at hand count as unknown for a goal about rows to be answered if no number
    of them is given. Raises GoalError on a goal that is not a promise or contradicts another, a
    category without a count, a goal that budgets cannot divide, shares that do not sum to 1, or a
    bad confidence.
    """
    goals = tuple(map(promised, parse_goals(config.goals)))
    if moving := next((goal for goal in goals if not goal.monotone), None):
        raise GoalError(
            f"goal {moving.text!r} counts requests that are refused, and how many that are depends "
            "on scores",
            "calibrate on the rows there are: a promise that is not granted says how many would do",
        )
    counts = dict(config.have) if config.have else None
    return tuple(
        _planned(config, goals, goal, None if counts is None else goal.rows_told(counts))
        for goal in goals
    )


def for_rows(
    config: Config, examples: Sequence[Example], taxonomy: Taxonomy, share: float = 1.0
) -> tuple[PlanRow, ...]:
    """Plan the promises among a config's goals on rows at hand; each slice of "in every ..." is a
    goal of its own.

    share: part of the rows that thresholds are chosen on, the others being a calibrator's. Raises
    GoalError as run does, and on slices that no row is in.
    """
    # how many rows a goal without a fixed denominator needs depends on scores
    asked = [goal for goal in parse_goals(config.goals) if goal.promised and goal.monotone]
    if not asked or not examples:
        return ()
    # Which rows a goal is about is read from labelled scores and a policy. Nothing is scored yet,
    # so both are stand-ins: equal scores, and a policy without thresholds.
    nothing_NC = np.full(
        (len(examples), len(taxonomy.tokens)), -np.log(len(taxonomy.tokens)), dtype=np.float32
    )
    rows = label_scores(
        examples, taxonomy, ScoreTable(ids=tuple(e.id for e in examples), logp_NC=nothing_NC)
    )
    template = Policy(
        name="plan",
        taxonomy=taxonomy,
        rule="heaviest",
        categories=(CategoryPolicy(),) * len(taxonomy.names),
    )
    goals = tuple(map(promised, expand_slices(asked, template, rows)))
    found = []
    for goal in goals:
        # One row of each group at most: rows made from one another are one observation.
        among_N = goal_rows(goal, rows, taxonomy)
        have = int(one_per_group(rows.group_N, among_N, seed=0)[among_N].sum())
        found.append(_planned(config, goals, goal, math.floor(have * share)))
    return tuple(found)


def _planned(
    config: Config, goals: Sequence[PromisedGoal], goal: PromisedGoal, have: int | None
) -> PlanRow:
    """The plan of one goal beside the others. have: labels of rows that it is about, if known."""
    how = CertifyOptions(
        confidence=config.confidence,
        method=config.method,
        shares=config.shares,
        on_failure=config.on_failure,
    )
    parts = _parts(config, goal)
    # The plan for one share of level and delta; the lowest level in reach is that of the whole
    # goal.
    row = plan_row(
        replace(goal, level=goal.level / parts),
        have,
        how.delta / len(sets_to_try(goals, how)) / _tests(config, goals) / parts,
        tested=1.0 - how.learn_share if config.method in ("path", "vectors") else 1.0,
    )
    return replace(row, lowest=None if row.lowest is None else min(1.0, row.lowest * parts))


def _tests(config: Config, goals: Sequence[PromisedGoal]) -> int:
    """The number of parts into which the goals divide delta."""
    # vectors tests all goals on one threshold vector at once, an intersection-union test: each of
    # them has the whole delta.
    if config.method == "vectors":
        return 1
    if config.method in ("budgets", "graphical"):
        return len(goals)
    # shared and path: goals on one side share its whole delta, because fixed-sequence testing ends
    # at the most careful of their thresholds. Only the two sides divide it.
    return len({goal.errs_when for goal in goals})


def _parts(config: Config, goal: PromisedGoal) -> float:
    """The number of shares into which a goal's level and its part of delta are divided; with
    unequal shares, the inverse of the smallest.
    """
    if config.method not in ("budgets", "graphical"):
        return 1
    if goal.errs_when == "answered":
        raise GoalError(
            f"goal {goal.text!r} cannot be split over categories", "use the method 'vectors'"
        )
    if config.shares is not None:
        if unknown := [c for c in goal.categories if c not in config.shares]:
            known = f"shares given: {', '.join(config.shares)}"
            raise GoalError(f"goal {goal.text!r}: no share of {unknown[0]!r}", known)
        own_K = [config.shares[name] for name in goal.deciders(tuple(config.shares))]
        return sum(own_K) / min(own_K)
    # A goal that names its categories is divided over these, however many others there are.
    if named := goal.deciders(()):
        return len(named)
    if config.categories is None:
        raise GoalError(
            f"method {config.method!r} divides levels over the categories",
            "say how many: --categories 5",
        )
    # Only the number of categories is known: the unnamed ones get made-up names.
    others = config.categories - len(goal.categories)
    return len(goal.deciders((*goal.categories, *(f"another {n}" for n in range(others)))))


def sentence(row: PlanRow) -> str:
    """One goal's plan in words: whether the labels at hand can certify it, else how many would."""
    wanted = (
        f"{row.needed} labels of requests {row.labels} could certify it without an error, "
        f"{row.likely} probably"
    )
    if row.have is None:
        return f"{row.goal}: {wanted}"
    if row.allowed is None:
        least = "nothing" if row.lowest is None else f"a level of {row.lowest:.2%} at best"
        return f"{row.goal}: not with {row.have} labels, which can promise {least}; {wanted}"
    errors = (
        "no error"
        if row.allowed == 0
        else f"at most {row.allowed} {'error' if row.allowed == 1 else 'errors'}"
    )
    return f"{row.goal}: can be certified with {row.have} labels, if they show {errors}"
