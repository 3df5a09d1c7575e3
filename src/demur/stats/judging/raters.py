"""Agreement of several raters, people or judges. Shapes: N items, R raters, C values, G prompts, D
draws.

Nominal values; a rater who has not rated an item is None there. Cohen's kappa of two is
demur.stats.judging.agreement.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from demur.base.arrays import Doubles
from demur.base.errors import DataError
from demur.stats.measure import Statistic
from demur.stats.points import Resampling

Ratings = Sequence[Sequence[str | None]]  # per item, one value a rater


@dataclass(frozen=True, kw_only=True, slots=True)
class RaterAgreement:
    """The agreement of several raters on the same items."""

    raters: tuple[str, ...]
    pairable: int  # items with two ratings or more: alpha is over these
    complete: int  # items that all have rated: Fleiss' kappa is over these
    fleiss: Statistic
    alpha: Statistic  # Krippendorff's
    # percentile bootstrap over prompts; None where alpha is undefined
    alpha_interval: tuple[float, float] | None


def rater_agreement(
    raters: Sequence[str], ratings: Ratings, groups: Sequence[str], how: Resampling
) -> RaterAgreement:
    """Measure the agreement of raters. groups: the prompt of each item; items of one prompt are
    drawn together.

    Raises DataError on unequal lengths.
    """
    if len(ratings) != len(groups) or any(len(row) != len(raters) for row in ratings):
        raise DataError(
            f"{len(ratings)} items, {len(groups)} prompts, {len(raters)} raters",
            "a prompt an item, a value a rater",
        )
    count_NC = _counts(ratings)
    per_item_N = count_NC.sum(axis=1)
    complete_NC = count_NC[per_item_N == len(raters)]
    alpha = alpha_of(ratings)
    return RaterAgreement(
        raters=tuple(raters),
        pairable=int((per_item_N >= 2).sum()),
        complete=len(complete_NC),
        fleiss=fleiss_of(complete_NC),
        alpha=alpha,
        alpha_interval=_interval(count_NC, groups, how) if alpha.defined else None,
    )


def fleiss_of(count_NC: Doubles) -> Statistic:
    """Fleiss' kappa (1971) of items that equally many raters, two at least, have rated; from the
    counts per value.

    Undefined without items, and where all ratings are the same value.
    """
    n = float(count_NC[0].sum()) if len(count_NC) else 0.0
    if n < 2:
        return Statistic(number=None, why="no item is rated by all")
    share_C = count_NC.sum(axis=0) / count_NC.sum()
    chance = float((share_C**2).sum())
    if (share_C == 1.0).any():
        return Statistic(number=None, why="all ratings are the same")
    # the share of agreeing pairs of raters, mean over items; chance: that two random ratings agree
    agreed = float(((count_NC**2).sum(axis=1) - n).mean() / (n * (n - 1)))
    return Statistic(number=(agreed - chance) / (1 - chance))


def alpha_of(ratings: Ratings) -> Statistic:
    """Krippendorff's alpha for nominal values with missing ratings (Content Analysis, 4th ed. 2018,
    chapter 12).

    Undefined where no item has two ratings, and where all of those are the same value.
    """
    same_N, value_NC = _pairs(_counts(ratings))
    number = float(_alpha(same_N.sum(keepdims=True), value_NC.sum(axis=0, keepdims=True))[0])
    if np.isfinite(number):
        return Statistic(number=number)
    return Statistic(
        number=None, why="all ratings are the same" if value_NC.any() else "no item has two ratings"
    )


def _counts(ratings: Ratings) -> Doubles:
    """Count each value given to each item, shape (N, C)."""
    values = sorted({value for row in ratings for value in row if value is not None})
    return np.array(
        [[row.count(value) for value in values] for row in map(list, ratings)], dtype=np.float64
    ).reshape(len(ratings), len(values))


def _pairs(count_NC: Doubles) -> tuple[Doubles, Doubles]:
    """Per item: the weight of agreeing pairs, shape (N,), and the ratings that have a partner, by
    value, (N, C).
    """
    rated_N = count_NC.sum(axis=1)
    paired_N = rated_N >= 2
    # an item with m ratings gives each of its agreeing ordered pairs the weight 1 / (m - 1)
    same_N = np.where(
        paired_N, (count_NC * (count_NC - 1)).sum(axis=1) / np.maximum(rated_N - 1, 1), 0.0
    )
    return same_N, np.where(paired_N[:, None], count_NC, 0.0)


def _alpha(same_D: Doubles, value_DC: Doubles) -> Doubles:
    """Alpha from sums over items, one for each of D draws; NaN where it is undefined: for use in
    here only.
    """
    # 1 - observed / expected disagreement, expected from pairs drawn without replacement: n (n - 1)
    n_D = value_DC.sum(axis=1)
    by_chance_D = n_D**2 - (value_DC**2).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        alpha_D: Doubles = np.where(
            by_chance_D > 0, 1 - (n_D - 1) * (n_D - same_D) / by_chance_D, np.nan
        )
    return alpha_D


def _interval(count_NC: Doubles, groups: Sequence[str], how: Resampling) -> tuple[float, float]:
    """Percentile bootstrap of alpha over prompts; draws without one are left out.

    The lower end counts two prompts more than there are, whose raters differ between the two
    commonest values: raters who never differed on 60 prompts may differ on the next.
    """
    same_N, value_NC = _pairs(count_NC)
    _, group_N = np.unique(list(groups), return_inverse=True)
    # both sums are additive over items: per prompt first, then over the prompts of each draw
    same_G: Doubles = np.bincount(group_N, weights=same_N).astype(np.float64)
    per_value = [np.bincount(group_N, weights=v_N) for v_N in value_NC.T]
    value_GC: Doubles = np.stack(per_value, axis=1).astype(np.float64)
    unseen_2C = np.zeros((2, value_GC.shape[1]))
    unseen_2C[:, np.argsort(-value_GC.sum(axis=0))[:2]] = value_GC.sum() / len(same_G) / 2.0
    careful_GC = np.concatenate([value_GC, unseen_2C])
    low, _ = _percentiles(np.append(same_G, [0.0, 0.0]), careful_GC, how)
    return low, max(_percentiles(same_G, value_GC, how)[1], low)


def _percentiles(same_G: Doubles, value_GC: Doubles, how: Resampling) -> tuple[float, float]:
    rng, size = np.random.default_rng(how.seed), len(same_G)
    times_DG = rng.multinomial(size, np.full(size, 1 / size), size=how.draws)
    alpha_D = _alpha(times_DG @ same_G, times_DG @ value_GC)
    tail = (1.0 - how.confidence) / 2.0
    low, high = np.quantile(alpha_D[np.isfinite(alpha_D)], [tail, 1.0 - tail])
    return float(low), float(high)
