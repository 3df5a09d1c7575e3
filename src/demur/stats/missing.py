"""Rows without an outcome, counted as the worse case of each promise.

A prompt that an endpoint never answered, or whose answer no judge could score, may have been one to
refuse that every threshold lets through, or one to answer that every threshold refuses. Each
becomes both: one hit of every missed refusal and one of every false refusal, whatever the
thresholds are. Shapes: N rows before, M missing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from demur.base.errors import DataError
from demur.core.goals.goal import Goal
from demur.core.goals.promised import PromisedGoal
from demur.core.policy import Policy
from demur.core.rows.facets import NONE, Facet
from demur.core.score import ScoreTable
from demur.stats.labelled import LabelledScores, Traits, traits_from

_NAME = "without an outcome"
_SURE = 1e-12  # the least probability that a predictor gives


def with_missing(rows: LabelledScores, missing: int, goals: Sequence[Goal] = ()) -> LabelledScores:
    """Add to the rows, for each of M missing ones, its two worse cases: (N + 2 M) rows of a
    taxonomy of one category.

    Raises DataError beside labels by hand: a correction for a judge's errors cannot be made of rows
    it never saw; beside a goal about all prompts, whatever their label: of the two cases only one
    would be its error; and beside a goal about a slice, which a missing row may be in or not.
    """
    if not missing:
        return rows
    if sliced := [g for g in goals if isinstance(g, PromisedGoal) and (g.where or g.every)]:
        raise DataError(
            f"goal {sliced[0].text!r} speaks of a slice, and {missing} prompts without an outcome "
            "may be in it",
            "promise for all rows, or ask again until each prompt has an outcome",
        )
    if capped := [goal for goal in goals if isinstance(goal, PromisedGoal) and not goal.labelled]:
        raise DataError(
            f"goal {capped[0].text!r} is about all prompts, and {missing} of them have no "
            "outcome and no score",
            "promise false_refusal or missed_refusal, or ask again until each prompt has an "
            "outcome",
        )
    if rows.traffic is not None:
        raise DataError(
            f"{missing} prompts have no outcome, beside a stated mix: their slices are not known",
            "ask again (the same demur blackbox command goes on with them) until each has one",
        )
    if rows.hand_N is not None:
        raise DataError(
            f"{missing} prompts have no outcome, beside labels by hand that correct outcomes",
            "ask again (the same demur blackbox command goes on with them) until each has one",
        )
    ids = [f"{_NAME} {n}, to be {what}" for what in ("refused", "answered") for n in range(missing)]
    sure_C = np.log1p(-_SURE), np.log(_SURE)
    # M rows surely answered, labelled to be refused; M rows surely refused, labelled to be answered
    logp_MC = np.array(
        [sure_C] * missing + [sure_C[::-1]] * missing, dtype=rows.table.logp_NC.dtype
    )
    groups = rows.group_N
    if groups is not None:
        # both cases of a missing row are of one group, which no other row is in: never counted
        # twice
        alone_M = np.arange(2 * missing) % missing + 1 + (groups.max() if len(groups) else 0)
        groups = np.concatenate([groups, alone_M])
    return replace(
        rows,
        table=ScoreTable(
            ids=(*rows.table.ids, *ids), logp_NC=np.concatenate([rows.table.logp_NC, logp_MC])
        ),
        label_N=np.concatenate([rows.label_N, np.repeat([1, 0], missing)]),
        group_N=groups,
        count_N=None
        if rows.count_N is None
        else np.concatenate([rows.count_N, np.ones(2 * missing, dtype=np.int64)]),
        taught_N=None
        if rows.taught_N is None
        else np.concatenate([rows.taught_N, np.zeros(2 * missing, dtype=bool)]),
        traits=None if rows.traits is None else _joined(rows.traits, missing),
    )


def note_missing(policy: Policy, missing: int) -> Policy:
    """Note in each certified promise how many prompts without an outcome it counts as errors."""
    words = f"; {missing} prompts without an outcome count as errors"
    # not those of a kept policy
    ours = [p.status == "certified" and p.digest is None for p in policy.promises]
    made = tuple(
        replace(p, method=p.method + words) if o else p
        for p, o in zip(policy.promises, ours, strict=True)
    )
    return replace(policy, promises=made) if missing else policy


def _joined(traits: Traits, missing: int) -> Traits:
    """The missing rows are like most rows, facet by facet: they make no slice of their own."""
    kinds = ["refusal"] * missing + ["benign"] * missing
    found: dict[Facet, list[str]] = {}
    for facet in traits.columns:
        value_N = traits.of(facet).tolist()
        added = {"kind": kinds, "category": _categories(value_N, missing)}
        found[facet] = value_N + added.get(facet, [_most_frequent(value_N)] * (2 * missing))
    return traits_from(found)


def _categories(category_N: Sequence[str], missing: int) -> list[str]:
    """Categories of the missing rows: those to be refused are of the most frequent one."""
    frequent = _most_frequent([c for c in category_N if c != NONE] or [NONE])
    return [frequent] * missing + [NONE] * missing


def _most_frequent(names: Sequence[str]) -> str:
    return Counter(names).most_common(1)[0][0]
