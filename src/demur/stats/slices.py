"""Goals about slices: the rows that they are about, one goal for each slice of a goal "in every
...", and slices of too few rows.

Several slices in one certificate are bounded by Mondrian's division of the rows and an
intersection-union test: a vector of thresholds is taken only if every slice passes its own test
there, so that each may be tested at the whole of delta.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches

import numpy as np

from demur.base.errors import GoalError
from demur.core.goals.goal import Goal
from demur.core.goals.parse import check_together
from demur.core.goals.promised import PromisedGoal
from demur.core.policy import Policy
from demur.core.rates import SHOWN, rows_needed
from demur.core.rows.facets import NONE, Facet, values_of
from demur.core.taxonomy import Taxonomy
from demur.stats.labelled import LabelledScores
from demur.stats.thresholds.losses import check_categories, goal_rows, goal_traits


@dataclass(frozen=True, kw_only=True, slots=True)
class SmallSlice:
    """A slice with too few rows to bound its rate at the level of its goal, even without an
    error.
    """

    goal: PromisedGoal
    rows: int  # of those made from one another, one
    needed: int


def expand_slices(
    goals: Sequence[Goal], template: Policy, rows: LabelledScores
) -> tuple[Goal, ...]:
    """Expand goals "in every kind | source | tenant | ..." into one goal for each that the rows
    have.

    A slice that a goal of its own names keeps that goal. Goals without slices come back as they
    are. Raises GoalError on a word that is both a kind and a category, on a slice that no row is
    in, and on goals that contradict each other.
    """
    for goal in goals:
        if isinstance(goal, PromisedGoal):
            _check(goal, template.taxonomy, rows)
    # what is named outright: its own level goes before that of "in every"
    own = {goal.subject for goal in goals if not (isinstance(goal, PromisedGoal) and goal.every)}
    found: list[Goal] = []
    for goal in goals:
        if isinstance(goal, PromisedGoal) and goal.every:
            found += [g for g in _each(goal, template, rows) if g.subject not in own]
        else:
            found.append(goal)
    check_together(found)
    return tuple(found)


def small_slices(
    goals: Sequence[PromisedGoal], template: Policy, rows: LabelledScores, delta: float
) -> tuple[SmallSlice, ...]:
    """The goals about slices that so few rows cannot certify at this delta, even without an
    error. Counts of rows alone decide, never scores.
    """
    found = []
    for goal in (g for g in goals if g.where):
        check_categories(goal, template)
        among_N = goal_rows(goal, rows, template.taxonomy)
        if rows.taught_N is not None:
            among_N &= ~rows.taught_N
        # rows made from one another are one piece of evidence
        units = among_N.sum() if rows.group_N is None else len(np.unique(rows.group_N[among_N]))
        needed = rows_needed(goal.level, delta)
        if 0 < units < needed:
            found.append(SmallSlice(goal=goal, rows=int(units), needed=needed))
    return tuple(found)


def small_slices_words(small: Sequence[SmallSlice], goals: Sequence[PromisedGoal]) -> str:
    """The slices of too few rows, each with the number that would do if no row of it errs."""
    named = ", ".join(
        f"{s.goal.risk} has {s.rows} rows and needs {s.needed}" for s in small[:SHOWN]
    )
    rest = f", and {len(small) - SHOWN} more" if len(small) > SHOWN else ""
    sliced = sum(bool(goal.where) for goal in goals)
    return f"{len(small)} of {sliced} slices have too few rows even without an error: {named}{rest}"


def instead_of_small(small: Sequence[SmallSlice], goals: Sequence[PromisedGoal]) -> str:
    """What to ask instead: the small slices of one facet pooled, or those that have enough rows
    named one by one. Empty where there is nothing to pool.
    """
    asked = small[0].goal
    # A pool is one slice of one facet: slices by two facets at once are left to the caller.
    alike = [s for s in small if _apart(s.goal) == _apart(asked) and len(s.goal.where) == 1]
    few = [s.goal for s in alike]
    enough = [g for g in goals if _apart(g) == _apart(asked) and g not in few]
    wanted = [f"{g.risk} <= {g.level:g}" for g in enough[:SHOWN]]
    if len(enough) > SHOWN:
        wanted.append("...")
    if len(alike) > 1 and sum(s.rows for s in alike) >= small[0].needed:
        (facet, _), *_ = asked.where
        names = tuple(name for goal in few for _, own in goal.where for name in own)
        pool = replace(asked, where=((facet, names),))
        wanted.append(f"{pool.risk} <= {pool.level:g}")
    return f"name the slices that matter and pool small ones: {'; '.join(wanted)}" if wanted else ""


def together_words(goals: Sequence[PromisedGoal], delta: float | None, confidence: float) -> str:
    """How many slices one certificate holds, and at which delta each was tested. Empty where it
    holds none beside another goal.

    delta: None where a procedure divides it over categories.
    """
    sliced = sum(bool(goal.where) for goal in goals)
    if len(goals) < 2 or not sliced:
        return ""
    rest = len(goals) - sliced
    others = f" and {rest} other goal{'s' if rest > 1 else ''}" if rest else ""
    each = "" if delta is None else f", each tested at delta {delta:.3g}"
    slices = f"{sliced} slice{'s' if sliced > 1 else ''}"
    return f"; {slices}{others}{each}, all together {100 * confidence:g}%"


def _apart(goal: PromisedGoal) -> tuple[object, ...]:
    """A goal without the names of its slice: slices of one facet, level and measure are alike."""
    return (goal.name, goal.category, goal.level, tuple(facet for facet, _ in goal.where))


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
    everyone_N = np.ones(len(rows.label_N), dtype=bool)
    for facet, names in goal.where:
        known = values_of(facet) or goal_traits(goal, rows).values(facet, everyone_N)
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
        every = goal.every
        found = [
            replace(goal, where=tuple(sorted([*goal.where, (every, (value,))])))
            for value in _values(goal, every, template, rows)
        ]
    return [
        replace(g, every=None, bare=False, text=f"{g.risk} <= {g.level:g}{soft}") for g in found
    ]


def _values(
    goal: PromisedGoal, every: Facet, template: Policy, rows: LabelledScores
) -> tuple[str, ...]:
    """The values that the goal's rows have of a facet. Raises GoalError where no row has one."""
    among_N = goal_rows(goal, rows, template.taxonomy)
    values = goal_traits(goal, rows).values(every, among_N)
    if among_N.any() and values == (NONE,):
        raise GoalError(
            f"goal {goal.text!r}: none of the {int(among_N.sum())} rows that it speaks of says its "
            f"{every}, and nothing tells it",
            f"give the rows a column {every!r}, or ask for the whole",
        )
    return values
