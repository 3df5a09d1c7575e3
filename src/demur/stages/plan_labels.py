"""plan-labels: goals -> how many labels could certify them, before anything is fitted. Reads and writes no file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from demur.core.goal import parse_goals
from demur.core.taxonomy import RESPOND
from demur.stats.plan import PlanRow, plan_labels
from demur.stats.promises import How

__all__ = ["Config", "Method", "PlanRow", "run"]

Method = Literal["shared", "path", "vectors"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """What is to be promised together, and the labels at hand."""

    goals: tuple[str, ...]
    have: Mapping[str, int] | None = None  # labelled rows: "respond" for those to be answered, or a category
    confidence: float = 0.95  # that all promises hold together
    method: Method = "shared"  # one threshold, or one per category: demur.stats.promises


def run(config: Config) -> tuple[PlanRow, ...]:
    """One row per goal, with what the method takes off: delta for goals of both sides, rows to learn an order on.

    A goal counts as told nothing about if it speaks of rows to be answered and no number of them is given. Raises
    GoalError on a goal that is no promise or contradicts another, a category without a count, or a bad confidence.
    """
    goals = parse_goals(config.goals)
    how = How(confidence=config.confidence, method=config.method)
    sides = {goal.kind == "missed_refusal" for goal in goals} if config.method != "vectors" else {True}
    told = dict(config.have) if config.have else None
    rows: list[PlanRow] = []
    for goal in goals:
        known = told is not None and (goal.kind != "false_refusal" or RESPOND in told)
        rows += plan_labels(
            [goal],
            told if known else None,
            confidence=1.0 - how.delta / len(sides),
            tested=1.0 if config.method == "shared" else 1.0 - how.learn_share,
        )
    return tuple(rows)
