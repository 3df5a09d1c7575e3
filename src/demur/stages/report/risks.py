"""What a promise speaks of, worked out from metrics.json."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from demur.base.errors import Undefined
from demur.core.goals.counts import Counts, two_way
from demur.core.goals.kinds import Goal, Named
from demur.core.goals.parse import parse_goals
from demur.core.rates import Rate
from demur.pages.parts import Cell
from demur.store.results.metrics_file import ErrorsRow, MeasuredRate, PolicyMetrics

_UNKNOWN = "not shown"


def number(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.3f}"


def measured(goal: Goal, p: PolicyMetrics, active: Sequence[str]) -> tuple[Cell, Cell]:
    """What a promise speaks of: on the calibrate rows where it is not a rate, and on the test rows.

    active: categories that the policy may refuse with. "not shown" where metrics.json holds no such
    figure.
    """
    goal = _in_full(goal, p)
    before, after = (
        _shown(goal, _counts(p, confusion, errors, active))
        for confusion, errors in (
            (p.calibrate_confusion, p.calibrate),
            (p.confusion, p.decision.overall),
        )
    )
    return (_UNKNOWN if isinstance(before, MeasuredRate) else before), after


def _in_full(goal: Goal, p: PolicyMetrics) -> Goal:
    """The goal that was asked for, where the policy's file holds its name only."""
    if not isinstance(goal, Named):
        return goal
    return next((asked for asked in parse_goals(p.goal) if asked.risk == goal.risk), goal)


def _counts(
    p: PolicyMetrics, confusion: Sequence[Sequence[int]], errors: ErrorsRow, active: Sequence[str]
) -> Counts:
    """The confusion matrix; where an older version kept none of these rows, refused or answered
    alone.
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
    try:
        figure = goal.figure(counts)
    except Undefined:
        return number(None)
    if isinstance(figure, Rate):
        return MeasuredRate.from_core(figure)
    return _UNKNOWN if figure is None else goal.shown(figure)
