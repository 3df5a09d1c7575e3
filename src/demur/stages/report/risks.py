"""The figures that promises are about, computed from the counts in metrics.json."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from demur.base.arrays import Ints
from demur.base.errors import Undefined
from demur.core.goals.counts import Counts, two_way
from demur.core.goals.goal import Goal
from demur.core.goals.kinds import Named, Natural, TargetRate
from demur.core.goals.parse import parse_goals
from demur.core.rates import Rate
from demur.pages.parts import Cell
from demur.store.results.metrics_file import ErrorsRow, PolicyMetrics

_UNKNOWN = "not shown"


def number(value: float | None) -> str:
    """A figure with three digits, for tables."""
    return "not defined" if value is None else f"{value:.3f}"


def measured(goal: Goal, p: PolicyMetrics, active: Sequence[str]) -> tuple[Cell, Cell]:
    """A promised figure on the calibrate rows and on the test rows.

    active: categories that the policy may refuse with. "not shown" where metrics.json has no such
    figure; for a rate on the calibrate rows, because the promise itself holds that; and for a
    bounded rate on the test rows, because counts know no units of rows.
    """
    # The policy's file may hold the name of a goal only; metrics.json has its full text.
    if isinstance(goal, Named):
        goal = next((full for full in parse_goals(p.goal) if full.risk == goal.risk), goal)
    before, after = (
        _shown(goal, replace(_counts(p, confusion, errors, active), defer_LC=_table(deferred)))
        for confusion, errors, deferred in (
            (p.calibrate_confusion, p.calibrate, p.calibrate_deferred),
            (p.confusion, p.decision.overall, p.deferred),
        )
    )
    if isinstance(goal, Natural | TargetRate):
        after = _refused(goal.category, p)
    return before, after


def _refused(category: str | None, p: PolicyMetrics) -> Cell:
    """The share of the test rows that are refused, with one category if it is named."""
    if category is None:
        return p.decision.overall.refusal_rate
    return p.tokens[category].emitted if category in p.tokens else _UNKNOWN


def _table(counts: Sequence[Sequence[int]]) -> Ints | None:
    return np.array(counts, dtype=np.int64) if counts else None


def _counts(
    p: PolicyMetrics, confusion: Sequence[Sequence[int]], errors: ErrorsRow, active: Sequence[str]
) -> Counts:
    """The confusion matrix; where an older version stored none, the counts of refused and answered
    rows.
    """
    if not confusion:
        answered = errors.false_refusal.of - errors.false_refusal.hits
        return two_way(
            answered=answered,
            false=errors.false_refusal.hits,
            missed=errors.missed_refusal.hits,
            caught=errors.caught.hits,
        )
    return Counts(
        rows_LC=np.array(confusion, dtype=np.int64), names=tuple(p.tokens), active=tuple(active)
    )


def _shown(goal: Goal, counts: Counts) -> Cell:
    """A goal's figure as a table cell, in the goal's format."""
    try:
        figure = goal.figure(counts)
    except Undefined:
        return number(None)
    return _UNKNOWN if figure is None or isinstance(figure, Rate) else goal.shown(figure)
