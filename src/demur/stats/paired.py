"""Paired comparison of items answered before and after a change: how much ability was gained, lost,
and may have been lost at most.

Shapes: N items, G groups (items made from one another). "No loss of ability" is no large
p-value: it is `most_lost`, an upper bound of the loss, beside the margin that the reader tolerates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import bdtr, gammaln, xlog1py, xlogy
from scipy.stats import norm

from demur.base.arrays import Doubles, Ints
from demur.base.errors import DataError
from demur.core.rates import Rate, binomial_cdf
from demur.stats.points import Resampling

_CLOSE = 1e-2  # of one item: where the search for a bound ends
_SHARES = 64  # of items that change: so many are looked at, and the likeliest counts
_BETS = 0.5 ** np.arange(0.0, 8.0, 0.5)  # shares of the largest bet that cannot ruin the gambler
_OF_ITEMS = 0x17E35  # a stream of its own: which item of a group stands for it


@dataclass(frozen=True, kw_only=True, slots=True)
class Paired:
    """The comparison of one set of items, each right or wrong before and after."""

    before: Rate  # right before, among all items
    after: Rate
    gained: int  # right after only
    lost: int  # right before only
    groups: int  # sets of items that are drawn together
    # McNemar, exact, two-sided, on the sign of each group's net change: nothing changed
    p: float
    # two-sided, of after - before; like the bound below, whether items are drawn one by one or in
    # their groups
    interval: tuple[float, float]
    # one-sided upper bound of before - after, which holds whether items are drawn one by one or in
    # their groups
    most_lost: float

    @property
    def difference(self) -> float:
        """Share right after less share right before. Raises Undefined without items."""
        return self.after.value - self.before.value


def mcnemar_p(gained: int, lost: int) -> float:
    """Exact two-sided p-value of "either direction is as likely" (McNemar 1947, binomial); 1 if
    nothing changed.
    """
    return min(1.0, 2.0 * binomial_cdf(min(gained, lost), gained + lost, 0.5))


def mcnemar_of_groups(change_N: Ints, group_N: Ints) -> float:
    """McNemar's p-value on the sign of each group's net change: items of a group change together,
    and are one piece of evidence. change_N: 1 gained, -1 lost. group_N: equal numbers, from 0.
    """
    net_G = np.bincount(group_N, weights=change_N)
    return mcnemar_p(int((net_G > 0).sum()), int((net_G < 0).sum()))


def most_lost(gained: int, lost: int, of: int, delta: float) -> float:
    """Upper bound of P(lost) - P(gained) that fails with probability <= delta, for any N
    independent items.

    Exact and at the whole of delta (Buehler 1957): outcomes are put in order by a one-sided normal
    bound, and the result is the largest difference under which an outcome as good as this one has
    probability delta, whatever share of the items changes. Raises Undefined if of == 0.
    """
    # Raises Undefined without items.
    if Rate(hits=lost, of=of).value == 1.0:
        return 1.0
    most_C = _as_good(gained, lost, of, delta)
    # From the same ends for every outcome: outcomes whose bounds are alike get the same one, and
    # one item more never moves it the wrong way within the search's own precision.
    low, high = -1.0, 1.0
    while high - low > _CLOSE / of:
        middle = (low + high) / 2
        likely = _probability(most_C, middle, of) >= delta
        low, high = (middle, high) if likely else (low, middle)
    return high


def _as_good(gained: int, lost: int, of: int, delta: float) -> Doubles:
    """Per number C = 0..N of changed items: the most lost ones with which an outcome ranks no worse
    than this one; negative where none does.

    Rank: D + z sqrt(C + k), D = lost - gained: N times a normal bound with pseudo-counts k, so many
    that one more gained item never raises it. (With the variance C - D^2 / N it might, where nearly
    all items are lost.)
    """
    z = float(norm.isf(min(delta, 0.5)))
    extra = max(1.0, z * z / 4)
    rank = lost - gained + z * math.sqrt(lost + gained + extra)
    changed_C = np.arange(of + 1, dtype=np.float64)
    net_C = rank - z * np.sqrt(changed_C + extra)
    return np.floor((net_C + changed_C) / 2 + 1e-9)


def _probability(most_C: Doubles, difference: float, of: int) -> float:
    """The largest probability of losing at most so many of C changed items, over all shares of
    items that change.
    """
    # S: shares that change, dense near the least one that allows the difference.
    share_S1 = abs(difference) + (1.0 - abs(difference)) * np.linspace(0.0, 1.0, _SHARES) ** 2
    share_S1 = np.maximum(share_S1, 1e-300)[:, None]
    # Beyond 8 deviations no number of changed items comes: W numbers around the mean of each.
    width = min(of + 1, 2 * int(4.0 * math.sqrt(of) + 8.0))
    start_S1 = np.clip(np.floor(of * share_S1) - width // 2, 0, of + 1 - width)
    changed_SW = start_S1 + np.arange(width)
    log_SW = _log_choices(of)[changed_SW.astype(np.int64)] + xlogy(changed_SW, share_S1)
    log_SW += xlog1py(of - changed_SW, -share_S1)
    # Given C changed items the lost ones are binomial.
    lost_S1 = np.clip(0.5 * (1.0 + difference / share_S1), 0.0, 1.0)
    most_SW = most_C[changed_SW.astype(np.int64)]
    at_most_SW = bdtr(np.clip(most_SW, 0.0, changed_SW), changed_SW.astype(np.int64), lost_S1)
    return float((np.exp(log_SW) * np.where(most_SW < 0.0, 0.0, at_most_SW)).sum(axis=1).max())


def _log_choices(of: int) -> Doubles:
    """log of "N choose C" for C = 0..N."""
    changed_C = np.arange(of + 1.0)
    return np.asarray(gammaln(of + 1.0) - gammaln(changed_C + 1.0) - gammaln(of - changed_C + 1.0))


def most_lost_by_group(change_G: Doubles, delta: float) -> float:
    """Upper bound of the mean of -change, changes in [-1, 1], that fails with probability <= delta
    for independent groups.

    A gambler bets fixed shares of what he may against "the mean loss is m"; the mean of his wealth
    over these shares is above 1 / delta with probability <= delta (Markov), and grows with m.
    """
    loss_G = -change_G
    low, high = float(loss_G.mean()), 1.0
    while high - low > _CLOSE / len(loss_G):
        m = (low + high) / 2
        # Wealth of bet B: prod of 1 + B (m - loss) / (1 - m), never below 0 as loss <= 1.
        gain_G = (m - loss_G) / (1.0 - m)
        with np.errstate(divide="ignore"):
            log_wealth_B = np.log1p(_BETS[:, None] * gain_G).sum(axis=1)
        wealth = float(np.logaddexp.reduce(log_wealth_B)) - math.log(len(_BETS))
        low, high = (low, m) if wealth >= -math.log(delta) else (m, high)
    return high


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
    change_N = after_N.astype(np.int64) - before_N
    # Two exact one-sided bounds, each of which fails with half of the probability.
    half, seed = (1.0 - how.confidence) / 2.0, how.seed
    interval = (
        -_most_lost(change_N, group_N, half, seed),
        _most_lost(-change_N, group_N, half, seed),
    )
    return Paired(
        before=Rate(hits=int(before_N.sum()), of=len(before)),
        after=Rate(hits=int(after_N.sum()), of=len(before)),
        gained=gained,
        lost=lost,
        groups=int(group_N.max()) + 1,
        p=mcnemar_of_groups(change_N, group_N),
        interval=interval,
        most_lost=_most_lost(change_N, group_N, 1.0 - how.confidence, how.seed),
    )


def _most_lost(change_N: Ints, group_N: Ints, delta: float, seed: int) -> float:
    """Upper bound of the mean loss that holds whether items are independent or only their groups
    are: the larger of both bounds, so that neither pays for the other.
    """
    size_G = np.bincount(group_N)

    def exact(own_M: Ints, delta: float) -> float:
        return most_lost(int((own_M > 0).sum()), int((own_M < 0).sum()), len(own_M), delta)

    by_item = exact(change_N, delta)
    if len(size_G) == len(change_N):
        return by_item
    # By group: one item of each, drawn at random, and the mean change of each. Either may be the
    # sharper; with half of delta each, the better one holds.
    order_N = np.random.default_rng([seed, _OF_ITEMS]).permutation(len(change_N))
    drawn_G = order_N[np.unique(group_N[order_N], return_index=True)[1]]
    mean_G = np.bincount(group_N, weights=change_N).astype(np.float64) / size_G
    by_group = min(exact(change_N[drawn_G], delta / 2), most_lost_by_group(mean_G, delta / 2))
    return max(by_item, by_group)
