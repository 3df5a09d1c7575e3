"""Which mixes of slices keep a promise, by bounds of the slices on rows that chose no threshold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from demur.core.goals.goal import Promise
from demur.core.policy import Policy
from demur.core.rates import Rate
from demur.core.rows.facets import Facet
from demur.stats.labelled import LabelledScores
from demur.stats.thresholds.losses import decided_by, grouped_by_policy, losses_of, rows_of


@dataclass(frozen=True, kw_only=True, slots=True)
class SliceBound:
    """One slice of a promise, and how much of traffic it may be."""

    name: str
    share: float  # of the requests here that the promise is about
    rate: Rate
    upper: float  # all slices of the facet hold together
    # the shares of the slice in (0, 1), the others in proportion, that keep the level by these
    # bounds; None: no share does
    keeps: tuple[float, float] | None


def slice_bounds(
    promise: Promise, policy: Policy, rows: LabelledScores, facet: Facet, confidence: float
) -> tuple[SliceBound, ...]:
    """The bounds of a promise's rate in each slice of a facet, and the mixes that keep its level.

    With the confidence all bounds hold together (union bound over the slices), so every mix of them
    does: its rate is at most the mix of the bounds. rows: none of them may have chosen a threshold.
    Raises what losses_of raises.
    """
    rows = rows_of(promise.goal, rows)
    (loss,) = losses_of([promise.goal], policy, grouped_by_policy(promise.goal, policy, rows), 0)
    if rows.traits is None:
        return ()
    refused_N, held_N = decided_by(promise.goal, policy, rows)
    error_N = loss.errors(refused_N, held_N)
    names = rows.traits.values(facet, loss.denominator(refused_N))
    if not names:  # a precision, and no row is refused
        return ()
    counted = [loss.counted_under(refused_N, rows.traits.within(facet, (name,))) for name in names]
    delta = (1.0 - confidence) / len(names)
    upper = [rows_of.upper(error_N, delta) for rows_of in counted]
    requests = [rows_of.requests for rows_of in counted]
    level = promise.level or 1.0
    return tuple(
        SliceBound(
            name=name,
            share=requests[s] / sum(requests),
            rate=counted[s].rate(error_N),
            upper=upper[s],
            keeps=_keeping(s, upper, requests, level),
        )
        for s, name in enumerate(names)
    )


def _keeping(
    at: int, upper: Sequence[float], requests: Sequence[int], level: float
) -> tuple[float, float] | None:
    """The shares of slice `at` for which the mix of the bounds is at most the level."""
    others = [s for s in range(len(upper)) if s != at]
    weight = sum(requests[s] for s in others)
    if not weight:
        return (0.0, 1.0) if upper[at] <= level else None
    rest = sum(requests[s] * upper[s] for s in others) / weight
    if max(rest, upper[at]) <= level:
        return 0.0, 1.0
    if min(rest, upper[at]) > level:
        return None
    # share * upper + (1 - share) * rest = level
    edge = (level - rest) / (upper[at] - rest)
    return (0.0, edge) if upper[at] > rest else (edge, 1.0)
