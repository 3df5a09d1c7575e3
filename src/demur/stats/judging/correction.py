"""Correcting a judged rate by hand labels of a random sample of the same answers. Shapes: N judged
answers, M checked, S strata.

1. The N answers are the whole of what is asked about; M of them were drawn at random, perhaps
   within strata, and labelled by hand.
2. The judge's mean over all N is moved by the mean difference (hand - judge) on the M, because the
   judge's errors are measured on the very answers that the rate is about, and none is assumed.
3. The judge's values are weighed so that the variance is least; a judge that says nothing weighs 0.
   Each checked row gets the weight that the M - 1 others give. A weight learnt from the row that it
   weighs would bias the estimate; so the mean of the estimate over draws is the hand's own rate,
   whatever the judge does: exactly where all rows are drawn alike, and in strata but for terms of
   the order 1/M^2 and 1/N. Among some of the rows of a draw in strata the weights sum to a random
   number, and the ratio has a bias of the order 1/M.
4. Where hits or misses are too rare for a normal interval, the exact one of the hand labels takes
   its place. The estimate stays that of 2: one that changed with the number of hits seen would be
   biased by the change.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import betaincinv
from scipy.stats import t as student

from demur.base.arrays import Bools, Doubles, Ints
from demur.base.errors import DataError, Undefined
from demur.core.rates import Rate
from demur.stats.judging.judged import RateEstimate

LEAST = 10  # checked rows below which nothing is corrected
ROUNDING = 1e-12  # a judge whose values vary by less says always the same
# checked hits, or misses, below which the exact interval of the hand labels is the honest one
RARE = 10
TOO_RARE = "regression; the interval is that of the hand labels alone, exact: too rare"
OWN = "the hand labels' own rate, exact: nothing to correct"
# errors of the judge that the draw may have missed, one each way: they count in the variance
UNSEEN = 2


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Strata:
    """The draw of the checked rows: at random within strata, in whatever shares."""

    of_N: Ints  # stratum of each row; read only where it was checked
    checked_S: Ints  # rows checked in each stratum, also those that a rate is not about
    size_S: Ints  # rows in each stratum

    def among(self, rows_N: Bools) -> Strata:
        """The draw restricted to some of the rows."""
        return Strata(of_N=self.of_N[rows_N], checked_S=self.checked_S, size_S=self.size_S)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CheckedSample:
    """N judged answers, some of them checked by hand. Raises DataError on unequal lengths."""

    judge_N: Doubles  # 0, 1 or anything between, such as 0.5 where the judge could not score
    hand_N: Doubles  # 0 or 1; read only where known_N
    known_N: Bools
    strata: Strata | None = None  # None: drawn from all alike

    def __post_init__(self) -> None:
        lengths = (len(self.judge_N), len(self.hand_N), len(self.known_N))
        if len(set(lengths)) > 1 or not lengths[0]:
            raise DataError(
                f"{lengths[0]} judged values, {lengths[1]} by hand, {lengths[2]} marks",
                "one of each a row",
            )
        if not np.isin(self.hand_N[self.known_N], (0.0, 1.0)).all():
            raise DataError("a hand label is neither 0 nor 1", "1 = the answer declines")

    def among(self, rows_N: Bools) -> CheckedSample:
        """The sample restricted to some of the rows."""
        strata = self.strata.among(rows_N) if self.strata else None
        return CheckedSample(
            judge_N=self.judge_N[rows_N],
            hand_N=self.hand_N[rows_N],
            known_N=self.known_N[rows_N],
            strata=strata,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Mean:
    """An estimated mean with its variance and the degrees of freedom behind that."""

    value: float
    variance: float
    freedom: int

    def half(self, confidence: float) -> float:
        return float(student.ppf(0.5 + confidence / 2, self.freedom)) * math.sqrt(self.variance)


def regression_rate(sample: CheckedSample, confidence: float = 0.95) -> RateEstimate:
    """Estimate the mean of the hand labels over all N rows, from the judge's values on all and the
    hand's where known.

    Regression estimator of a finite set (Cochran 1977, chapter 7), the finite form of PPI++:
    mean_N(w J) + mean_M(H - w J) with w of least variance, learnt on the other checked rows;
    variance with factor 1 - M/N; Student's t. In strata each checked row stands for as many as its
    stratum has to one checked (Horvitz and Thompson 1952; Hajek's ratio form, linearised). The
    variance counts two errors of the judge more than were seen, one each way, or one in every
    stratum: none in 60 rows does not mean none in 600. Fewer than 10 hits or misses by hand: the
    same estimate with the exact binomial interval of the hand labels alone, in strata at their
    effective number (Kish 1965), widened to hold the estimate. Where every row is known nothing is
    left to correct: the labels' own rate, with their exact interval, about further rows like these.
    Raises Undefined on fewer than 10 known rows.
    """
    hand_M = sample.hand_N[sample.known_N]
    n, m, hits = len(sample.judge_N), len(hand_M), int(hand_M.sum())
    _enough(sample)
    if m == n:
        return _alone(hand_M, None, confidence, OWN)
    found = _mean(sample, np.ones(n))
    if min(hits, m - hits) < RARE:
        return _around(found.value, _alone(hand_M, _weights(sample), confidence, TOO_RARE))
    drawn = "hand labels, weighted by stratum" if sample.strata else "hand labels"
    return _clipped(found, confidence, f"regression on {m} {drawn}")


def labels_rate(sample: CheckedSample, confidence: float = 0.95) -> RateEstimate:
    """Estimate the mean of the hand labels by themselves, each weighing as much as its stratum
    makes it.

    For a draw whose other rows nobody judged. The exact binomial interval, in strata at the
    effective number of labels (Kish 1965), which gives away what strata gain. Raises Undefined on
    fewer than 10 known rows.
    """
    _enough(sample)
    return _alone(sample.hand_N[sample.known_N], _weights(sample), confidence, OWN)


def regression_share(
    sample: CheckedSample,
    should_N: Bools,
    fixed: tuple[int, int] = (0, 0),
    confidence: float = 0.95,
) -> RateEstimate:
    """Estimate, among rows with a 1 by hand, the share of those in should_N: the precision of what
    declines.

    fixed: further rows that are 1 beyond doubt, as (in the share, all of them). A ratio of two
    regression estimates, linearised; a ratio is biased by the order of 1/M. Fewer than 10 checked
    rows in the share, of 1 out of it, or of 0: the exact interval of the hand labels alone, widened
    to hold the ratio. Every row known: the hand labels' own share and exact interval. Raises
    Undefined as regression_rate, where no checked row is 1, and where the estimate leaves none.
    """
    _enough(sample)
    one_N = sample.known_N & (sample.hand_N == 1.0)
    inside_M, n = should_N[one_N].astype(np.float64), len(sample.judge_N)
    hits = int(inside_M.sum())
    if not len(inside_M):
        raise Undefined("no checked row declines", "label more rows")
    if sample.known_N.all():
        sure_M = np.repeat((1.0, 0.0), (fixed[0], fixed[1] - fixed[0]))
        return _alone(np.concatenate([inside_M, sure_M]), None, confidence, OWN)
    ones = fixed[1] + n * _mean(sample, np.ones(n)).value
    within = fixed[0] + n * _mean(sample, should_N.astype(np.float64)).value
    if ones <= 0:
        raise Undefined("nothing declines by the estimate", "label more rows")
    value = within / ones
    rarest = min(hits, len(inside_M) - hits, int(sample.known_N.sum()) - len(inside_M))
    if rarest < RARE and not fixed[1]:
        weight_M = _weights(sample)
        among_M = None if weight_M is None else weight_M[one_N[sample.known_N]]
        return _around(value, _alone(inside_M, among_M, confidence, TOO_RARE))
    # delta method for a ratio: the variance of within / ones is that of the mean of (should -
    # value) x hand, scaled by (n / ones)^2
    around = _mean(sample, should_N.astype(np.float64) - value)
    scaled = _Mean(value=value, variance=around.variance * (n / ones) ** 2, freedom=around.freedom)
    return _clipped(
        scaled, confidence, f"ratio of regressions on {int(sample.known_N.sum())} hand labels"
    )


def _enough(sample: CheckedSample) -> None:
    m = int(sample.known_N.sum())
    if m < LEAST:
        raise Undefined(
            f"{m} of {len(sample.judge_N)} rows are labelled by hand",
            f"label at least {LEAST} drawn at random",
        )


def _weights(sample: CheckedSample) -> Doubles | None:
    """The number of rows that each checked row stands for, shape (M,); None if all stand for as
    many.
    """
    if sample.strata is None:
        return None
    of_M = sample.strata.of_N[sample.known_N]
    weight_M: Doubles = (sample.strata.size_S / sample.strata.checked_S)[of_M]
    return weight_M


def _mean(sample: CheckedSample, factor_N: Doubles) -> _Mean:
    """The regression estimate of the mean of factor * hand."""
    judge_N, known_N, m = factor_N * sample.judge_N, sample.known_N, int(sample.known_N.sum())
    judge_M, hand_M = judge_N[known_N], (factor_N * sample.hand_N)[known_N]
    drawn, error = _weights(sample), float((factor_N**2).mean())
    # each checked row's share of the estimate, sum 1: equal, or by Horvitz and Thompson's weights
    part_M = np.full(m, 1.0 / m) if drawn is None else drawn / drawn.sum()
    judge_off_M, hand_off_M = judge_M - part_M @ judge_M, hand_M - part_M @ hand_M
    spread = float(part_M @ judge_off_M**2)
    varies = spread > ROUNDING
    # the regression slope of hand on judge is the weight of least variance
    slope = float(part_M @ (judge_off_M * hand_off_M)) / spread if varies else 0.0
    # one degree of freedom for the mean, one for the slope
    freedom = m - 2 if varies else m - 1
    residual_M = hand_off_M - slope * judge_off_M
    if sample.strata is None:
        variance = (
            (1 - m / len(judge_N)) * (float((residual_M**2).sum()) + UNSEEN * error) / freedom / m
        )
    else:
        of_M = sample.strata.of_N[known_N]
        sampled = _stratified_variance(sample.strata, of_M, part_M * residual_M)
        variance = sampled + error * _unseen_variance(sample.strata, of_M, part_M)
    # the judge's mean over all rows, moved by the mean residual on the checked ones, each row with
    # the slope that the others give
    others_M = _slopes_of_others(part_M, judge_off_M, hand_off_M)
    seen_M = judge_M
    if sample.strata is None:
        # Given the M - 1 others, a row is one draw of the N - M + 1 left: its judge's value stands
        # for the mean of these, and the others' values for themselves.
        others_mean_M = (judge_M.sum() - judge_M) / (m - 1)
        seen_M = judge_M + (m - 1) / len(judge_N) * (others_mean_M - judge_M)
    value = part_M @ (hand_M + others_M * (judge_N.mean() - seen_M))
    return _Mean(value=float(value), variance=variance, freedom=freedom)


def _slopes_of_others(part_M: Doubles, judge_off_M: Doubles, hand_off_M: Doubles) -> Doubles:
    """The regression slope of hand on judge without each row in turn, shape (M,).

    part_M: the rows' shares, sum 1; both others are off the mean so weighed. 1 where the judge says
    the same of all other rows: it is taken at its word, because nothing speaks against it.
    """
    gone_M = part_M / (1 - part_M)
    # centred sums without a row: the sum of all, less its own term, less what the mean moves
    spread_M = part_M @ judge_off_M**2 - gone_M * judge_off_M**2
    both_M = part_M @ (judge_off_M * hand_off_M) - gone_M * judge_off_M * hand_off_M
    slope_M: Doubles = np.where(spread_M > ROUNDING, both_M / np.maximum(spread_M, ROUNDING), 1.0)
    return slope_M


def _stratified_variance(strata: Strata, of_M: Ints, share_M: Doubles) -> float:
    """Variance of a sum over a stratified draw without replacement (Cochran 1977, chapter 5).

    share_M: each checked row's term; checked rows that are not asked about have 0.
    """
    size = len(strata.size_S)
    sum_S = np.bincount(of_M, weights=share_M, minlength=size)
    square_S = np.bincount(of_M, weights=share_M**2, minlength=size)
    n_S = strata.checked_S
    several_S = n_S > 1  # one row alone shows no spread: its whole share counts as such
    centred_S = np.where(
        several_S,
        (square_S - sum_S**2 / np.maximum(n_S, 1)) * n_S / np.maximum(n_S - 1, 1),
        square_S,
    )
    return float(((1 - n_S / strata.size_S) * centred_S).sum())


def _unseen_variance(strata: Strata, of_M: Ints, part_M: Doubles) -> float:
    """The variance that one unseen error in every stratum adds, with the share of a row of that
    stratum.
    """
    size = len(strata.size_S)
    rows_S = np.maximum(np.bincount(of_M, minlength=size), 1)
    part_S = np.bincount(of_M, weights=part_M, minlength=size) / rows_S
    return float(((1 - strata.checked_S / strata.size_S) * part_S**2).sum())


def _alone(
    hit_M: Doubles, weight_M: Doubles | None, confidence: float, method: str
) -> RateEstimate:
    """The exact interval of the hand labels alone."""
    if weight_M is None:
        low, high = Rate(hits=int(hit_M.sum()), of=len(hit_M)).interval(confidence)
        value = float(hit_M.mean())
    else:
        n = float(weight_M.sum() ** 2 / (weight_M**2).sum())  # Kish's effective number
        value, tail = min(1.0, float(weight_M @ hit_M / weight_M.sum())), (1 - confidence) / 2
        # Clopper-Pearson with real-valued counts: n value hits of n
        low = 0.0 if value == 0 else float(betaincinv(n * value, n * (1 - value) + 1, tail))
        high = 1.0 if value == 1 else float(betaincinv(n * value + 1, n * (1 - value), 1 - tail))
    return RateEstimate(value=value, low=low, high=high, method=method)


def _around(value: float, labels: RateEstimate) -> RateEstimate:
    """An estimate with the exact interval of the hand labels, widened where it is outside."""
    value = min(max(value, 0.0), 1.0)
    low, high = min(labels.low, value), max(labels.high, value)
    return RateEstimate(value=value, low=low, high=high, method=labels.method)


def _clipped(found: _Mean, confidence: float, method: str) -> RateEstimate:
    half = found.half(confidence)
    low, high = max(0.0, found.value - half), min(1.0, found.value + half)
    return RateEstimate(value=min(max(found.value, 0.0), 1.0), low=low, high=high, method=method)
