"""plan-labels: goals -> how many labels could certify them, before anything is fitted. Reads and writes no file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from demur.core.errors import GoalError
from demur.core.goal import Goal, parse_goals
from demur.core.taxonomy import RESPOND
from demur.stats.plan import PlanRow, plan_labels
from demur.stats.promises import How, sets_to_try

__all__ = ["Config", "Method", "OnFailure", "PlanRow", "run"]

Method = Literal["shared", "path", "vectors", "budgets", "graphical"]
OnFailure = Literal["stop", "hard_only"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """What is to be promised together, and the labels at hand."""

    goals: tuple[str, ...]
    have: Mapping[str, int] | None = None  # labelled rows: "respond" for those to be answered, or a category
    confidence: float = 0.95  # that all promises hold together
    method: Method = "shared"  # one threshold, or one per category: demur.stats.promises
    on_failure: OnFailure = "stop"  # hard_only: delta is split over the sets of goals that are tried
    categories: int | None = None  # that may be refused with; budgets and graphical divide levels by it
    shares: Mapping[str, float] | None = None  # instead: category -> its share of level and delta, sum 1


def run(config: Config) -> tuple[PlanRow, ...]:
    """One row per goal, with what the method takes off: delta for goals of both sides, rows to learn an order on.

    Budgets divide level and delta over the categories, so their rows speak of one category's share of the level, the
    smallest where shares are given; the graphical procedure begins there and may end with less. A goal counts as told
    nothing about if it speaks of rows to be answered and no number of them is given. Raises GoalError on a goal that is
    no promise or contradicts another, a category without a count, a goal that budgets cannot divide, shares that do not
    sum to 1, or a bad confidence.
    """
    goals = parse_goals(config.goals)
    how = How(confidence=config.confidence, method=config.method, shares=config.shares, on_failure=config.on_failure)
    told = dict(config.have) if config.have else None
    rows: list[PlanRow] = []
    for goal in goals:
        known = told is not None and (goal.kind != "false_refusal" or RESPOND in told)
        parts = _parts(config, goal)
        (row,) = plan_labels(
            [replace(goal, level=goal.level / parts if goal.level else None)],
            told if known else None,
            confidence=1.0 - how.delta / len(sets_to_try(goals, how)) / _tests(config, goals) / parts,
            tested=1.0 - how.learn_share if config.method in ("path", "vectors") else 1.0,
        )
        rows.append(replace(row, lowest=None if row.lowest is None else min(1.0, row.lowest * parts)))
    return tuple(rows)


def _tests(config: Config, goals: Sequence[Goal]) -> int:
    """Into how many parts goals divide delta."""
    if config.method == "vectors":
        return 1
    if config.method in ("budgets", "graphical"):
        return len(goals)
    return len({goal.kind == "missed_refusal" for goal in goals})


def _parts(config: Config, goal: Goal) -> float:
    """Into how many shares a goal's level, and its part of delta, are divided; the inverse of the smallest share."""
    if config.method not in ("budgets", "graphical"):
        return 1
    if goal.kind == "missed_refusal":
        raise GoalError(f"goal {goal.text!r} cannot be split over categories", "use the method 'vectors'")
    if config.shares is not None:
        own_K = _touched(goal, config.shares)
        return sum(own_K) / min(own_K)
    if goal.category and goal.kind != "wrong_category":
        return len(goal.categories)
    if config.categories is None:
        raise GoalError(f"method {config.method!r} divides levels over the categories", "say how many: --categories 5")
    alone = goal.kind == "wrong_category" and len(goal.categories) == 1
    return config.categories - 1 if alone else config.categories


def _touched(goal: Goal, shares: Mapping[str, float]) -> list[float]:
    """The shares of the categories whose thresholds a goal is divided over."""
    if unknown := [c for c in goal.categories if c not in shares]:
        raise GoalError(f"goal {goal.text!r}: no share of {unknown[0]!r}", f"shares given: {', '.join(shares)}")
    if goal.kind != "wrong_category":
        return [shares[c] for c in goal.categories or shares]
    return [share for c, share in shares.items() if goal.categories != (c,)]
