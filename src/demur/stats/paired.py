"""Paired comparison of items answered before and after a change: how much ability was gained, lost,
and may have been lost at most.

Shapes: N items, G groups (items made from one another), D draws. "No loss of ability" is no large
p-value: it is `most_lost`, an upper bound of the loss, beside the margin that the reader tolerates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from demur.base.arrays import Doubles
from demur.base.errors import DataError
from demur.core.rates import Rate, binomial_cdf, lower_bound, upper_bound
from demur.stats.points import Resampling


@dataclass(frozen=True, kw_only=True, slots=True)
class Paired:
    """The comparison of one set of items, each right or wrong before and after."""

    before: Rate  # right before, among all items
    after: Rate
    gained: int  # right after only
    lost: int  # right before only
    groups: int  # sets of items that are drawn together
    p: float  # McNemar, exact, two-sided: nothing changed
    # bootstrap over groups, of after - before; None where all changed alike
    interval: tuple[float, float] | None
    # one-sided upper bound of before - after; None where items share groups
    most_lost: float | None

    @property
    def difference(self) -> float:
        """Share right after less share right before. Raises Undefined without items."""
        return self.after.value - self.before.value


def mcnemar_p(gained: int, lost: int) -> float:
    """Exact two-sided p-value of "either direction is as likely" (McNemar 1947, binomial); 1 if
    nothing changed.
    """
    return min(1.0, 2.0 * binomial_cdf(min(gained, lost), gained + lost, 0.5))


def most_lost(gained: int, lost: int, of: int, delta: float) -> float:
    """Upper bound of P(lost) - P(gained) that fails with probability <= delta, for any N
    independent items.

    The upper Clopper-Pearson bound of the lost share less the lower one of the gained share, at
    delta / 2 each. Wider than a normal approximation, and right where that is not: with few items,
    or with none that changed. Raises Undefined if of == 0.
    """
    return upper_bound(lost, of, delta / 2) - lower_bound(gained, of, delta / 2)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values, in the order given, that hold for the whole family (Holm 1979)."""
    adjusted, worst = [0.0] * len(p_values), 0.0
    for rank, at in enumerate(sorted(range(len(p_values)), key=lambda n: p_values[n])):
        # the k-th smallest is multiplied by the number of hypotheses left; never below one before
        # it
        worst = max(worst, min(1.0, (len(p_values) - rank) * p_values[at]))
        adjusted[at] = worst
    return adjusted


def compare_paired(
    before: Sequence[bool], after: Sequence[bool], groups: Sequence[str], how: Resampling
) -> Paired:
    """Compare two runs over the same items, in the same order. how.confidence holds for `interval`
    and `most_lost`.

    Raises DataError on unequal lengths or no items.
    """
    if not len(before) == len(after) == len(groups) or not before:
        raise DataError(
            f"{len(before)} items before, {len(after)} after, {len(groups)} groups",
            "one of each an item, at least one",
        )
    before_N, after_N = np.array(before, dtype=bool), np.array(after, dtype=bool)
    gained, lost = int((after_N & ~before_N).sum()), int((before_N & ~after_N).sum())
    _, group_N = np.unique(list(groups), return_inverse=True)
    size_G = np.bincount(group_N).astype(np.float64)
    change_G = np.bincount(group_N, weights=after_N.astype(np.float64) - before_N).astype(
        np.float64
    )
    # the exact bound wants independent items: one per group
    alone = len(size_G) == len(before)
    return Paired(
        before=Rate(hits=int(before_N.sum()), of=len(before)),
        after=Rate(hits=int(after_N.sum()), of=len(before)),
        gained=gained,
        lost=lost,
        groups=len(size_G),
        p=mcnemar_p(gained, lost),
        interval=_interval(change_G, size_G, how),
        most_lost=most_lost(gained, lost, len(before), 1.0 - how.confidence) if alone else None,
    )


def _interval(change_G: Doubles, size_G: Doubles, how: Resampling) -> tuple[float, float] | None:
    """Percentile bootstrap of the mean change; None where it could only be a point, which claims
    too much.
    """
    if np.ptp(change_G / size_G) == 0:
        return None
    rng, size = np.random.default_rng(how.seed), len(size_G)
    # whole groups with replacement: multinomial counts, one matrix product for all D draws
    times_DG = rng.multinomial(size, np.full(size, 1 / size), size=how.draws)
    mean_D = (times_DG @ change_G) / (times_DG @ size_G)
    tail = (1.0 - how.confidence) / 2.0
    low, high = np.quantile(mean_D, [tail, 1.0 - tail])
    return float(low), float(high)
