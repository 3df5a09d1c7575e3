"""Correcting a judged rate by hand labels of a random sample of the same answers. Shapes: N judged
answers, M checked, S strata, U units (demur.stats.units).

1. The rate is about requests like those of the N answers; M of these were drawn at random, perhaps
   within strata, and labelled by hand.
2. The judge's mean over all N is moved by the mean difference (hand - judge) on the M, because the
   judge's errors are measured on the very answers that the rate is about, and none is assumed.
3. The judge's values are weighed so that the variance is least; a judge that says nothing weighs 0.
   Each checked row gets the weight that the M - 1 others give. A weight learnt from the row that it
   weighs would bias the estimate; so the mean of the estimate over draws is the hand's own rate,
   whatever the judge does: exactly where all rows are drawn alike, and in strata but for terms of
   the order 1/M^2 and 1/N. Among some of the rows of a draw in strata the weights sum to a random
   number, and the ratio has a bias of the order 1/M.
4. The variance has two parts: of the draw of the M among the N, and of the N among all requests.
   Rows of one unit err together: products of their errors are added to the second part, and the
   degrees of freedom are those of the units that were checked.
5. Where hits or misses are too rare for a normal interval, the exact one of the hand labels takes
   its place. The estimate stays that of 2: one that changed with the number of hits seen would be
   biased by the change.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import t as student

from demur.base.arrays import Bools, Doubles, Ints
from demur.base.errors import DataError, Undefined
from demur.core.rates import real_interval
from demur.stats.judging.judged import RateEstimate
from demur.stats.units import RowUnits

LEAST = 10  # checked rows below which nothing is corrected
ROUNDING = 1e-12  # a judge whose values vary by less says always the same
# units with a checked hit, or with a miss, below which the exact interval of the hand labels is the
# honest one
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
    units: RowUnits | None = None  # None: every row is a unit and stands for one request
    # rows whose value by hand is beyond doubt, without a label: no part of the draw. None: no row
    sure_N: Bools | None = None

    def __post_init__(self) -> None:
        lengths = (len(self.judge_N), len(self.hand_N), len(self.known_N))
        if len(set(lengths)) > 1 or not lengths[0]:
            raise DataError(
                f"{lengths[0]} judged values, {lengths[1]} by hand, {lengths[2]} marks",
                "one of each a row",
            )
        if not np.isin(self.hand_N[self.known_N], (0.0, 1.0)).all():
            raise DataError("a hand label is neither 0 nor 1", "1 = the answer declines")

    @property
    def drawn_N(self) -> Bools:
        """The rows that were, or could have been, drawn to be checked."""
        return np.ones(len(self.judge_N), dtype=bool) if self.sure_N is None else ~self.sure_N

    @property
    def row_units(self) -> RowUnits:
        """The units and counts of the rows."""
        return self.units or RowUnits.of(len(self.judge_N))

    @property
    def weight_N(self) -> Doubles:
        """The requests of each row, scaled to a mean of 1."""
        count_N = self.row_units.count_N
        return np.asarray(count_N / count_N.mean())

    def among(self, rows_N: Bools) -> CheckedSample:
        """The sample restricted to some of the rows."""
        strata = self.strata.among(rows_N) if self.strata else None
        return CheckedSample(
            judge_N=self.judge_N[rows_N],
            hand_N=self.hand_N[rows_N],
            known_N=self.known_N[rows_N],
            strata=strata,
            units=None if self.units is None else self.units.at(rows_N),
            sure_N=None if self.sure_N is None else self.sure_N[rows_N],
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
    """Estimate the share of requests with a 1 by hand, from the judge's values on all N rows and
    the hand's where known.

    Regression estimator (Cochran 1977, chapter 7; PPI++): mean_N(w J) + mean_M(H - w J) with w of
    least variance, learnt on the other checked rows; Student's t. In strata each checked row stands
    for as many as its stratum has to one checked (Horvitz and Thompson 1952; Hajek's ratio form,
    linearised). The variance counts two errors of the judge more than were seen, one each way, or
    one in every stratum: none in 60 rows does not mean none in 600. Hits or misses by hand in fewer
    than 10 units: the same estimate with the exact interval of the hand labels alone, in strata at
    their effective number (Kish 1965), widened to hold the estimate. Where every row is known
    nothing is left to correct: the labels' own rate, with their exact interval. Raises Undefined on
    fewer than 10 known rows.
    """
    _enough(sample)
    m, drawn_N = int(sample.known_N.sum()), sample.drawn_N
    if m == drawn_N.sum():
        everyone_N = np.ones(len(drawn_N), dtype=bool)
        return _alone(replace(sample, strata=None), everyone_N, confidence, OWN)
    weight_N = sample.weight_N
    value = _mean(sample, weight_N, np.zeros(len(weight_N))).value
    if _rarest(sample, sample.hand_N == 1.0, sample.hand_N == 0.0) < RARE:
        return _around(value, _labels_beside_sure(sample, confidence))
    around = _mean(sample, weight_N, weight_N * value)
    drawn = "hand labels, weighted by stratum" if sample.strata else "hand labels"
    return _clipped(value, around, confidence, f"regression on {m} {drawn}")


def labels_rate(sample: CheckedSample, confidence: float = 0.95) -> RateEstimate:
    """Estimate the share with a 1 by hand from the hand labels by themselves, each weighing as much
    as its stratum makes it.

    For a draw whose other rows nobody judged. The exact interval, in strata at the effective number
    of labels (Kish 1965), which gives away what strata gain. Raises Undefined on fewer than 10
    known rows.
    """
    _enough(sample)
    return _alone(sample, sample.known_N, confidence, OWN)


def regression_share(
    sample: CheckedSample, should_N: Bools, confidence: float = 0.95
) -> RateEstimate:
    """Estimate, among requests with a 1 by hand, the share of those in should_N: the precision of
    what declines.

    A ratio of two regression estimates, linearised; a ratio is biased by the order of 1/M. Checked
    rows in the share, of 1 out of it, or of 0, in fewer than 10 units, and no sure row: the exact
    interval of the hand labels alone, widened to hold the ratio. Every row known: the hand labels'
    own share and exact interval. Raises Undefined as regression_rate, where no checked row is 1,
    and where the estimate leaves none.
    """
    _enough(sample)
    ones_N = sample.hand_N == 1.0
    if not (sample.known_N & ones_N).any():
        raise Undefined("no checked row declines", "label more rows")
    if (sample.known_N == sample.drawn_N).all():
        own = replace(sample, hand_N=should_N.astype(np.float64), strata=None)
        return _alone(own, ones_N, confidence, OWN)
    weight_N, nothing_N = sample.weight_N, np.zeros(len(should_N))
    ones = _mean(sample, weight_N, nothing_N).value
    if ones <= 0:
        raise Undefined("nothing declines by the estimate", "label more rows")
    value = _mean(sample, weight_N * should_N, nothing_N).value / ones
    rarest = _rarest(sample, ones_N & should_N, ones_N & ~should_N, ~ones_N)
    if rarest < RARE and sample.drawn_N.all():
        own = replace(sample, hand_N=should_N.astype(np.float64))
        return _around(value, _alone(own, sample.known_N & ones_N, confidence, TOO_RARE))
    # Delta method for a ratio: its error is the mean of (should - value) x hand, over that of hand.
    around = _mean(sample, weight_N * (should_N - value), nothing_N)
    scaled = replace(around, variance=around.variance / ones**2)
    m = int(sample.known_N.sum())
    return _clipped(value, scaled, confidence, f"ratio of regressions on {m} hand labels")


def _enough(sample: CheckedSample) -> None:
    m = int(sample.known_N.sum())
    if m < LEAST:
        raise Undefined(
            f"{m} of {int(sample.drawn_N.sum())} rows are labelled by hand",
            f"label at least {LEAST} drawn at random",
        )


def _rarest(sample: CheckedSample, *sorts: Bools) -> int:
    """The fewest units that have a checked row of one of these sorts."""
    group_N = sample.row_units.group_N
    return min(len(np.unique(group_N[sample.known_N & sort_N])) for sort_N in sorts)


def _drawn_weights(sample: CheckedSample) -> Doubles:
    """The number of drawn rows that each checked row stands for, shape (M,)."""
    if sample.strata is None:
        m = int(sample.known_N.sum())
        return np.full(m, sample.drawn_N.sum() / m)
    of_M = sample.strata.of_N[sample.known_N]
    weight_M: Doubles = (sample.strata.size_S / sample.strata.checked_S)[of_M]
    return weight_M


def _mean(sample: CheckedSample, factor_N: Doubles, less_N: Doubles) -> _Mean:
    """The regression estimate of the mean of factor * hand - less over all rows."""
    drawn_N, known_N = sample.drawn_N, sample.known_N
    judge_N, hand_N = factor_N * sample.judge_N - less_N, factor_N * sample.hand_N - less_N
    judge_M, hand_M, m = judge_N[known_N], hand_N[known_N], int(known_N.sum())
    judge_mean = float(judge_N[drawn_N].mean())
    # each checked row's share of the estimate, sum 1: equal, or by Horvitz and Thompson's weights
    part_M = _drawn_weights(sample)
    part_M = part_M / part_M.sum()
    judge_off_M, hand_off_M = judge_M - part_M @ judge_M, hand_M - part_M @ hand_M
    spread = float(part_M @ judge_off_M**2)
    varies = spread > ROUNDING
    # the regression slope of hand on judge is the weight of least variance
    slope = float(part_M @ (judge_off_M * hand_off_M)) / spread if varies else 0.0
    residual_M = hand_off_M - slope * judge_off_M
    # the judge's mean over all rows, moved by the mean residual on the checked ones, each row with
    # the slope that the others give
    others_M = _slopes_of_others(part_M, judge_off_M, hand_off_M)
    seen_M, n = judge_M, int(drawn_N.sum())
    if sample.strata is None:
        # Given the M - 1 others, a row is one draw of the N - M + 1 left: its judge's value stands
        # for the mean of these, and the others' values for themselves.
        others_mean_M = (judge_M.sum() - judge_M) / (m - 1)
        seen_M = judge_M + (m - 1) / n * (others_mean_M - judge_M)
    estimate = float(part_M @ (hand_M + others_M * (judge_mean - seen_M)))
    # sure rows are added to the estimate of the drawn ones
    share = n / len(drawn_N)
    value = share * estimate + float(hand_N[~drawn_N].sum()) / len(drawn_N)
    # what each row adds to the error: its own distance from the mean, as far as judge or hand tell,
    # and the residual of a checked row for all those it stands for
    told_N = np.where(drawn_N, estimate + slope * (judge_N - judge_mean), hand_N)
    error_N = (told_N - value) / len(drawn_N)
    error_N[known_N] += share * part_M * residual_M
    # one degree of freedom for the mean, one for the slope
    lost = 2 if varies else 1
    square = share * float(part_M @ hand_M**2) + float((hand_N[~drawn_N] ** 2).sum()) / len(drawn_N)
    of_rows = max(square - value**2, 0.0) / len(drawn_N)
    drawn = share**2 * _variance_of_draw(sample, part_M, residual_M, (factor_N[drawn_N], lost))
    together, pieces = _of_units(sample, error_N)
    return _Mean(value=value, variance=drawn + of_rows + together, freedom=max(pieces - lost, 1))


def _variance_of_draw(
    sample: CheckedSample, part_M: Doubles, residual_M: Doubles, how: tuple[Doubles, int]
) -> float:
    """Variance of the mean residual over draws of the checked rows. how: factors of the drawn rows,
    and degrees of freedom that the fit has used.
    """
    error, m = float((how[0] ** 2).mean()), len(part_M)
    if sample.strata is None:
        squares = float((residual_M**2).sum()) + UNSEEN * error
        return (1 - m / len(how[0])) * squares / (m - how[1]) / m
    of_M = sample.strata.of_N[sample.known_N]
    sampled = _stratified_variance(sample.strata, of_M, part_M * residual_M)
    return sampled + error * _unseen_variance(sample.strata, of_M, part_M)


def _of_units(sample: CheckedSample, error_N: Doubles) -> tuple[float, int]:
    """What rows of one unit add to the variance by erring together, never less than 0; and the
    number of checked units.
    """
    unit_N = np.unique(sample.row_units.group_N, return_inverse=True)[1]
    checked, units = len(np.unique(unit_N[sample.known_N])), int(unit_N.max()) + 1
    if units == len(unit_N):
        return 0.0, checked
    # The square of a unit's sum less the squares of its rows: the products of pairs.
    products = float((np.bincount(unit_N, weights=error_N) ** 2).sum() - (error_N**2).sum())
    return max(products, 0.0) * units / max(units - 1, 1), checked


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


def _alone(sample: CheckedSample, among_N: Bools, confidence: float, method: str) -> RateEstimate:
    """The exact interval of the values by hand alone on these rows, which are checked or sure."""
    hit_N, units = sample.hand_N == 1.0, sample.row_units
    if sample.strata is None:
        rate = units.rate(hit_N, among_N)
        low, high = rate.interval(confidence)
        return RateEstimate(value=rate.value, low=low, high=high, method=method)
    weight_N = units.count_N.astype(np.float64)
    weight_N[sample.known_N] *= _drawn_weights(sample)
    hit_M, weight_M = hit_N[among_N], weight_N[among_N]
    unit_M = np.unique(units.group_N[among_N], return_inverse=True)[1]
    value = min(1.0, float(weight_M @ hit_M / weight_M.sum()))
    # Kish's effective number, of rows and of units: the wider interval of both
    by_unit_U = np.bincount(unit_M, weights=weight_M)
    ends = [
        real_interval(value, float(w.sum() ** 2 / (w**2).sum()), confidence)
        for w in (weight_M, by_unit_U)
    ]
    low, high = min(low for low, _ in ends), max(high for _, high in ends)
    return RateEstimate(value=value, low=low, high=high, method=method)


def _labels_beside_sure(sample: CheckedSample, confidence: float) -> RateEstimate:
    """The exact interval of the hand labels alone, mixed with the sure rows as the rows are."""
    drawn_N = sample.drawn_N
    if drawn_N.all():
        return _alone(sample, sample.known_N, confidence, TOO_RARE)
    # Both intervals hold together (union bound). All sure rows of a rate have one value.
    each = (1.0 + confidence) / 2
    among_drawn = _alone(sample, sample.known_N, each, TOO_RARE)
    sure = sample.row_units.rate(~drawn_N, np.ones(len(drawn_N), dtype=bool))
    one = float(sample.hand_N[~drawn_N][0])

    def mixed(share: float, rest: float) -> float:
        return share * one + (1.0 - share) * rest

    # a larger share of sure rows moves the rate towards their value
    ends = sure.interval(each) if one else sure.interval(each)[::-1]
    return RateEstimate(
        value=mixed(sure.value, among_drawn.value),
        low=mixed(ends[0], among_drawn.low),
        high=mixed(ends[1], among_drawn.high),
        method=TOO_RARE,
    )


def _around(value: float, labels: RateEstimate) -> RateEstimate:
    """An estimate with the exact interval of the hand labels, widened where it is outside."""
    value = min(max(value, 0.0), 1.0)
    low, high = min(labels.low, value), max(labels.high, value)
    return RateEstimate(value=value, low=low, high=high, method=labels.method)


def _clipped(value: float, around: _Mean, confidence: float, method: str) -> RateEstimate:
    half = around.half(confidence)
    low, high = max(0.0, value - half), min(1.0, value + half)
    return RateEstimate(value=min(max(value, 0.0), 1.0), low=low, high=high, method=method)
