"""Goals about slices: the rows that they are about, and one goal for each slice of a goal "in every
...".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches

import numpy as np

from demur.base.errors import GoalError
from demur.core.goals.goal import Goal
from demur.core.goals.parse import check_together
from demur.core.goals.promised import KINDS, PromisedGoal
from demur.core.policy import Policy
from demur.core.taxonomy import Taxonomy
from demur.stats.labelled import LabelledScores
from demur.stats.thresholds.losses import goal_rows, goal_traits


def expand_slices(
    goals: Sequence[Goal], template: Policy, rows: LabelledScores
) -> tuple[Goal, ...]:
    """Expand goals "in every kind | category | source" into one goal for each that the rows have.

    A slice that a goal of its own names keeps that goal. Goals without slices come back as they
    are. Raises GoalError on a word that is both a kind and a category, on a source that no row has,
    and on goals that contradict each other.
    """
    for goal in goals:
        if isinstance(goal, PromisedGoal):
            _check(goal, template.taxonomy, rows)
    # risks that are named outright: their own level goes before that of "in every"
    own = {goal.risk for goal in goals if not (isinstance(goal, PromisedGoal) and goal.every)}
    found: list[Goal] = []
    for goal in goals:
        if isinstance(goal, PromisedGoal) and goal.every:
            found += [g for g in _each(goal, template, rows) if g.risk not in own]
        else:
            found.append(goal)
    check_together(found)
    return tuple(found)


def _check(goal: PromisedGoal, taxonomy: Taxonomy, rows: LabelledScores) -> None:
    """Raise GoalError on a slice that could mean two things, or that no row of the calibrate split
    is in.
    """
    if goal.bare:
        kinds = next(names for facet, names in goal.where if facet == "kind")
        for name in set(kinds) & set(taxonomy.names):
            raise GoalError(
                f"goal {goal.text!r}: {name!r} is a kind of rows and a category of taxonomy "
                f"{taxonomy.name!r}",
                f"write [kind={name}] for the slice, or [category={name}] for the category",
            )
    for facet, names in goal.where:
        known = KINDS if facet == "kind" else np.unique(goal_traits(goal, rows).of(facet)).tolist()
        for name in names:
            if name not in known:
                close = get_close_matches(name, known, n=1)
                hint = (
                    f"did you mean {close[0]!r}?"
                    if close
                    else f"{facet}s of these rows: {', '.join(known)}"
                )
                raise GoalError(f"goal {goal.text!r}: no row is of {facet} {name!r}", hint)


def _each(goal: PromisedGoal, template: Policy, rows: LabelledScores) -> list[PromisedGoal]:
    """One goal for each slice of the rows that a goal "in every ..." is about."""
    soft = f" soft {goal.soft}" if goal.soft is not None else ""
    if goal.every == "category":
        usable = [
            n
            for n in template.taxonomy.names
            if template.category(n).may_emit or not goal.of_tokens
        ]
        found = [replace(goal, category=name) for name in usable]
    else:
        assert goal.every is not None  # the caller looked
        every, among_N = goal.every, goal_rows(goal, rows, template.taxonomy)
        values = np.unique(goal_traits(goal, rows).of(every)[among_N]).tolist()
        found = [
            replace(goal, where=tuple(sorted([*goal.where, (every, (value,))]))) for value in values
        ]
    return [
        replace(g, every=None, bare=False, text=f"{g.risk} <= {g.level:g}{soft}") for g in found
    ]
