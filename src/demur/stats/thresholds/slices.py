"""Goals about slices: which rows they speak of, and one goal for each slice where "in every ..." is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches

import numpy as np

from demur.base.arrays import Bools
from demur.base.errors import DataError, GoalError
from demur.core.goal import KINDS, Goal, check_together
from demur.core.policy import Policy
from demur.core.taxonomy import Taxonomy
from demur.stats.labelled import LabelledScores, Traits


def settled(goals: Sequence[Goal], template: Policy, rows: LabelledScores) -> tuple[Goal, ...]:
    """The goals with "in every kind | category | source" as one goal for each that the rows have.

    A slice that a goal of its own names keeps that goal. Goals without slices come back as they are. Raises GoalError
    on a word that is both a kind and a category, on a source that no row has, and on goals that contradict each other.
    """
    for goal in goals:
        _check(goal, template.taxonomy, rows)
    own = {goal.risk for goal in goals if not goal.every}
    found: list[Goal] = []
    for goal in goals:
        found += [g for g in _each(goal, template, rows) if not goal.every or g.risk not in own]
    check_together(found)
    return tuple(found)


def rows_of(goal: Goal, rows: LabelledScores, columns: Sequence[int]) -> Bools:
    """The rows that a promised goal speaks of. columns: of the goal's categories, none for all.

    Raises DataError where a slice is asked for and the rows do not say their kind and source.
    """
    label_N = rows.label_N
    if goal.kind == "false_refusal":
        among_N = label_N == 0
    elif goal.kind == "refusal_rate_cap":
        among_N = np.ones(len(label_N), dtype=bool)
    else:
        among_N = np.isin(label_N, columns) if columns else label_N != 0
    for facet, names in goal.where:
        among_N = among_N & np.isin(_traits(goal, rows).of(facet), names)
    return np.asarray(among_N, dtype=bool)


def said_of(goal: Goal) -> str:
    """What a row that the goal speaks of is, for sentences: "to be answered and of kind contrast"."""
    if goal.kind == "false_refusal":
        words = ["to be answered"]
    elif goal.kind == "refusal_rate_cap":
        words = ["of any label"]
    else:
        words = [f"to be refused with {' or '.join(goal.categories) or 'anything'}"]
    return " and ".join([*words, *(f"of {facet} {' or '.join(names)}" for facet, names in goal.where)])


def _traits(goal: Goal, rows: LabelledScores) -> Traits:
    if rows.traits is None:
        raise DataError(
            f"goal {goal.text!r} speaks of a slice, and these rows do not say their kind and source",
            "ask for slices where rows of the data stage are at hand",
        )
    return rows.traits


def _check(goal: Goal, taxonomy: Taxonomy, rows: LabelledScores) -> None:
    """Raise GoalError on a slice that could mean two things, or that no row of the calibrate split is in."""
    if goal.bare:
        kinds = next(names for facet, names in goal.where if facet == "kind")
        for name in set(kinds) & set(taxonomy.names):
            raise GoalError(
                f"goal {goal.text!r}: {name!r} is a kind of rows and a category of taxonomy {taxonomy.name!r}",
                f"write [kind={name}] for the slice, or [category={name}] for the category",
            )
    for facet, names in goal.where:
        known = KINDS if facet == "kind" else np.unique(_traits(goal, rows).of(facet)).tolist()
        for name in names:
            if name not in known:
                close = get_close_matches(name, known, n=1)
                hint = f"did you mean {close[0]!r}?" if close else f"{facet}s of these rows: {', '.join(known)}"
                raise GoalError(f"goal {goal.text!r}: no row is of {facet} {name!r}", hint)


def _each(goal: Goal, template: Policy, rows: LabelledScores) -> list[Goal]:
    """The goal itself, or one for each slice of the rows that it speaks of."""
    if goal.every is None:
        return [goal]
    soft = f" soft {goal.soft}" if goal.soft is not None else ""
    if goal.every == "category":
        emitted = goal.kind in ("false_refusal", "refusal_rate_cap")
        names = [n for n in template.taxonomy.names if template.category(n).may_emit or not emitted]
        found = [replace(goal, category=name) for name in names]
    else:
        traits = _traits(goal, rows)
        columns = [template.taxonomy.column(name) for name in goal.categories]
        value_M = traits.of(goal.every)[rows_of(goal, rows, columns)]
        every, names = goal.every, np.unique(value_M).tolist()
        found = [replace(goal, where=tuple(sorted([*goal.where, (every, (name,))]))) for name in names]
    return [replace(g, every=None, bare=False, text=f"{g.risk} <= {g.level:g}{soft}") for g in found]
