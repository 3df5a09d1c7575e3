"""Tests and bounds of a rate under every mix of slices within bounds, on rows of another mix.

1. Under a mix the rate is the sum over slices s of share_s times the rate in s. A row of slice s
   weighs share_s over its slice's part of the tested rows, and bets against "the rate is above the
   level" are tests of it: see demur.stats.weighted.
2. Shares of traffic are estimated. Bounds hold for all of them together but with a part of delta,
   and the least wealth over all mixes within the bounds must refute at the rest (union bound).
3. Log wealth is a sum over slices of functions of their shares. Each lies above the lower convex
   hull of its values at three shares, because it is concave up to a clip and straight beyond it.
   The least sum of the hulls is found by filling the steepest falls first (a linear program).
4. Beyond a clip of weights, requests of a slice count as errors, all of them; so do those of a
   slice without tested rows. Bets with and without a clip have their wealth averaged.
5. Shares of traffic are of all requests. A goal speaks of a part of each slice, whose share rows
   with labels bound; with these the bounds are turned into those of the requests that it speaks
   of. All else is conditional on which rows these are, so that rows that no goal speaks of may
   teach what is tested.

Where rows are one request each, and no unit has rows in several slices, an exact test of rows that
are drawn anew (demur.stats.traffic.redraw) has most of delta, and the bets have the rest.

Sizes of bets never depend on the errors and scores of tested rows. Evidence is counted by units and
by requests, as in demur.stats.weighted, and both must pass.

Shapes: M rows of a denominator, U units, S slices, B sizes of bets, E entries of alike values, P
shares that a function is looked at.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from demur.base.arrays import Bools, Doubles, Ints
from demur.core.rates import binomial_cdf
from demur.stats.judging.betting import least_refuted
from demur.stats.traffic.bounds import (
    SPENDS,
    EstimatedMix,
    ShareBounds,
    SpokenShares,
    spoken_among,
)
from demur.stats.traffic.redraw import Redrawn, redrawn
from demur.stats.units import DECIDED, CountedRows, DecidedRows, bet_sizes, unit_slices

_CLIP = 4.0  # a weight at which bets of their own clip, where some weight exceeds it
_EXACT = 0.8  # of what the bounds leave of delta, for the exact test where there is one
_TINY = 1e-300  # in place of 0: 0 of 0 is 0, and the logarithm of a factor of 0 stays finite


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TrafficRows(DecidedRows):
    """The M rows that a goal speaks of, each in a slice of a mix that is promised for."""

    slice_M: Ints
    # The pairs of a unit and a slice that it has rows in; and the pair of each row that is counted
    # by units.
    unit_P: Ints
    slice_P: Ints
    pair_M: Ints
    mix: EstimatedMix
    spoken: SpokenShares

    @property
    def weight_M(self) -> Doubles:
        """The weight of each row under the likeliest mix; mean 1 over requests."""
        part_S = self._in_slices(self.count_M)
        return self._likely_S[self.slice_M] * self.requests / part_S[self.slice_M]

    def test(self, level: float, delta: float) -> TrafficTest | None:
        """The test of "the rate under the mix is at most level" at delta; None if it fails even
        without an error.
        """
        if not len(self.row_M):
            return None
        found = TrafficTest(
            rows=self,
            level=level,
            delta=delta,
            means=self.means(delta),
            most=int(level * self.requests),
        )
        return found if found.passes(np.zeros(int(self.row_M.max()) + 1, dtype=bool)) else None

    def needed(self, level: float, delta: float) -> int:
        """About the fewest units, mixed as these, that pass the test when no error is seen."""
        nothing_N = np.zeros(int(self.row_M.max()) + 1, dtype=bool)
        wealth = -math.log(max(self.p_value(nothing_N, level, delta), _TINY))
        return math.ceil(self.units * math.log(1.0 / delta) / max(wealth, 1e-9))

    def p_value(self, error_N: Bools, level: float, delta: float) -> float:
        """The p-value of "the rate under the mix is above level", at this delta alone; 1 without
        rows.
        """
        if not self.counted_M.any():
            return 1.0
        return self.refuted(error_N, level, self.means(delta))

    def means(self, delta: float) -> TestMeans:
        """What tests at delta rest on, whatever the errors and the level."""
        bounds = self.bounds(delta)
        exact = self._redrawn(bounds)
        aim = delta * (1.0 - SPENDS) * (1.0 - _EXACT if exact else 1.0)
        return TestMeans(delta=delta, bounds=bounds, exact=exact, aim=aim)

    def refuted(self, error_N: Bools, level: float, means: TestMeans) -> float:
        """At most delta where the test of "the rate is at most level" passes by these means; the
        less, the surer. It is a p-value at delta alone: the bounds of shares fail with a
        probability that does not fall with it.
        """
        wealth = self.log_wealth(error_N, level, means.bounds, self._bets(level, means))
        by_bets = math.exp(-max(wealth, 0.0))
        if not means.exact:
            return min(1.0, by_bets / (1.0 - SPENDS))
        exact = max(binomial_cdf(r.worst(error_N), r.draws, level) for r in means.exact)
        least = min(exact / _EXACT, by_bets / (1.0 - _EXACT))
        return min(1.0, least / (1.0 - SPENDS))

    def _redrawn(self, bounds: ShareBounds) -> tuple[Redrawn, ...]:
        """Rows drawn anew, by requests and by units; none where an exact test has no ground."""
        # Bounds by label depend on scores. A row of several requests is no draw of one, and rows of
        # one unit in two slices are not independent.
        if self.mix.by_label or self.decided or (self.count_M > 1).any():
            return ()
        if self.linked and len(self.unit_P) > self.units:
            return ()
        parts = [np.ones(len(self.row_M), dtype=bool)]
        if not self.plain:
            parts.append(self.drawn_M)
        found = [redrawn(self.row_M[own_M], self.slice_M[own_M], bounds.low_S) for own_M in parts]
        drawn = tuple(one for one in found if one is not None)
        return drawn if len(drawn) == len(parts) else ()

    def upper(self, error_N: Bools, delta: float) -> float:
        """One-sided upper confidence bound of the rate under the mix; 1 without rows.

        Under every mix the wealth against a level grows with it, because a bet times the level
        grows and a bet times 1 - level falls. So does the least wealth.
        """
        if not self.counted_M.any():
            return 1.0
        means = self.means(delta)
        return least_refuted(lambda level: self.refuted(error_N, level, means) <= delta)

    def mean(self, error_N: Bools) -> float:
        """The rate under the likeliest mix, as these rows estimate it."""
        weight_M = self.weight_M * self.count_M
        counted = float(weight_M[self.counted_M].sum())
        return float(weight_M[error_N[self.row_M] & self.counted_M].sum()) / max(counted, _TINY)

    def words(self, error_N: Bools, delta: float) -> str:
        """The rate under the mix, what it is, and how it is known, for people."""
        mix = self.mix
        said = mix.bounds(self._for_shares(delta)).words(mix.facet, mix.names)
        held = f"held under any mix of {said}: {mix.source}"
        if mix.by_label:
            return held
        return f"about {self.mean(error_N):.2%} for the traffic that was seen, {held}"

    def bounds(self, delta: float) -> ShareBounds:
        """Bounds of the shares of the slices among the requests that the goal speaks of."""
        shares = self.mix.bounds(self._for_shares(delta))
        return spoken_among(shares, self.spoken.bounds(delta * SPENDS / 2.0))

    def log_wealth(self, error_N: Bools, level: float, bounds: ShareBounds, bets: Bets) -> float:
        """Natural log of the mean wealth of the bets, the least over all mixes within the bounds:
        the lesser of that by units and by requests.
        """
        return min(
            _least_log_wealth(reading, level, bounds, bets)
            for reading in self._readings(error_N, level)
        )

    def _for_shares(self, delta: float) -> float:
        """What the bounds of the mix's shares have of delta; those of the spoken parts have as
        much.
        """
        return delta * SPENDS * (1.0 if self.spoken.settled else 0.5)

    @property
    def _likely_S(self) -> Doubles:
        """The likeliest share of each slice among the requests that the goal speaks of."""
        share_S = self.mix.share_S * self.spoken.likely_S
        return np.asarray(share_S / max(float(share_S.sum()), _TINY))

    def _bets(self, level: float, means: TestMeans) -> Bets:
        """Sizes of bets from shares, weights and units alone; the largest keeps every factor
        positive.
        """
        delta = means.delta
        shares = self.mix.foreseen(self._for_shares(delta))
        foreseen_S = spoken_among(shares, self.spoken.bounds(delta * SPENDS / 2.0)).high_S
        heaviest = 1.0
        for size_S, total in self._sizes():
            some_S = size_S > 0
            weight_S = foreseen_S[some_S] * total / size_S[some_S]
            heaviest = max(heaviest, float(weight_S.max(initial=0.0)))
        part_S = self._in_slices(self.count_M)
        square = float((self._likely_S**2 / np.maximum(part_S, 1.0)).sum() * self.requests)
        alike = level * (1.0 - level) * square
        clips = [heaviest, _CLIP] if heaviest > _CLIP else [heaviest]
        # Where units are in several slices, factors take that many times the excess.
        most = 1 if self.plain else int(self._in_slices_of_pair.max(initial=1))
        # Of rows that decisions leave out the excess is 0, so that its variance may be far smaller:
        # how much, must not be told by the tested rows.
        parts = DECIDED if self.decided else (1.0,)
        pairs = [(clip, part) for clip in clips for part in parts]
        sizes = [
            bet_sizes(self, alike * part, means.aim, 1.0 / ((1.0 - level) * clip * most))
            for clip, part in pairs
        ]
        clip_B = np.repeat([clip for clip, _ in pairs], [len(bet_B) for bet_B in sizes])
        return Bets(bet_B=np.concatenate(sizes), clip_B=clip_B)

    def _in_slices(self, value_M: Doubles | Ints | Bools) -> Doubles:
        """The sum of a value over the rows of each slice, shape (S,)."""
        found_S = np.bincount(self.slice_M, weights=value_M, minlength=len(self.mix.names))
        return np.asarray(found_S, dtype=np.float64)

    @property
    def _in_slices_of_pair(self) -> Ints:
        """In how many slices the unit of each pair is."""
        return np.asarray(np.bincount(self.unit_P)[self.unit_P], dtype=np.int64)

    def _sizes(self) -> list[tuple[Doubles, float]]:
        """The requests of each slice, and of all; and where rows are no plain requests, its
        units.
        """
        sizes = [(self._in_slices(self.count_M), float(self.requests))]
        if self.plain:
            return sizes
        units_S = np.bincount(self.slice_P, minlength=len(self.mix.names)).astype(np.float64)
        return [*sizes, (units_S, float(self.units))]

    def _readings(self, error_N: Bools, level: float) -> Iterator[_Reading]:
        """The excess of the rows by requests; and where rows are no plain requests, by units."""
        error_M = error_N[self.row_M] & self.counted_M
        slices, sizes = len(self.mix.names), self._sizes()
        # Of each slice the errors, and what else is in the denominator.
        hits_S, right_S = (
            self._in_slices(self.count_M * flag_M)
            for flag_M in (error_M, self.counted_M & ~error_M)
        )
        yield _Reading(
            slice_E=np.tile(np.arange(slices), 2),
            excess_E=np.repeat([1.0 - level, -level], slices),
            times_E=np.concatenate([hits_S, right_S]),
            size_S=sizes[0][0],
            total=sizes[0][1],
        )
        if self.plain:
            return
        own_M = self.in_units_M
        count_M = self.count_M[own_M].astype(np.float64)
        excess_M = np.where(self.counted_M, error_M - level, 0.0)[own_M]
        excess_E = np.bincount(self.pair_M, weights=count_M * excess_M)
        # The factor of a unit in k slices is the mean over these of factors with k times the
        # excess, and its logarithm at least the mean of theirs (Jensen).
        in_slices_E = self._in_slices_of_pair
        yield _Reading(
            slice_E=self.slice_P,
            excess_E=in_slices_E * excess_E / np.bincount(self.pair_M, weights=count_M),
            times_E=1.0 / in_slices_E,
            size_S=sizes[1][0],
            total=sizes[1][1],
        )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TestMeans:
    """What the tests at one delta rest on."""

    delta: float
    bounds: ShareBounds
    exact: tuple[Redrawn, ...]  # all of them must pass; empty: there is no exact test
    aim: float  # what the bets have of delta


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Bets:
    """Sizes of bets, each with the weight at which it clips."""

    bet_B: Doubles
    clip_B: Doubles


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Reading:
    """Values of excess before weights, each in a slice and as often as it occurs."""

    slice_E: Ints
    excess_E: Doubles
    times_E: Doubles
    size_S: Doubles  # of each slice, in requests or units
    total: float  # requests or units

    def log_factors(self, stake_SP: Doubles) -> Doubles:
        """The sum over each slice's entries of log(1 - stake * excess), shape (S, P)."""
        factor_EP = 1.0 - stake_SP[self.slice_E] * self.excess_E[:, None]
        log_EP = np.log(np.maximum(factor_EP, _TINY)) * self.times_E[:, None]
        found = [
            np.bincount(self.slice_E, weights=log_E, minlength=len(self.size_S))
            for log_E in log_EP.T
        ]
        return np.stack(found, axis=1)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TrafficTest:
    """A test of "the rate is at most level" under every mix within bounds, monotone in the
    errors.
    """

    rows: TrafficRows
    level: float
    delta: float
    means: TestMeans
    most: int  # errors that would be right at the level, to learn an order by

    def passes(self, error_N: Bools) -> bool:
        """Whether these errors certify the level."""
        return self.rows.refuted(error_N, self.level, self.means) <= self.delta


def rows_of_traffic(
    rows: CountedRows, mix: EstimatedMix, spoken: SpokenShares, counted_N: Bools | None = None
) -> TrafficRows:
    """The rows that a goal speaks of, as evidence for the mix of traffic. counted_N: the rows that
    decisions put into the denominator; None: all.
    """
    everyone_M = np.ones(len(rows.row_M), dtype=bool)
    slice_M = mix.slice_N[rows.row_M]
    unit_P, slice_P, pair_M = unit_slices(rows, slice_M, len(mix.names))
    return TrafficRows(
        row_M=rows.row_M,
        count_M=rows.count_M,
        unit_M=rows.unit_M,
        drawn_M=rows.drawn_M,
        slice_M=slice_M,
        unit_P=unit_P,
        slice_P=slice_P,
        pair_M=pair_M,
        counted_M=everyone_M if counted_N is None else counted_N[rows.row_M],
        decided=counted_N is not None,
        mix=mix,
        spoken=spoken,
    )


def least_sum(share_SP: Doubles, value_SP: Doubles) -> float:
    """The least sum over slices of functions of their shares, which sum to 1, each between the
    first and the last of three shares: a lower bound, by the lower convex hulls of the values.

    share_SP: three ascending shares a slice, the first of them summing to at most 1, the last to 1
    or more. value_SP: of each function at these.
    """
    length_SP = np.diff(share_SP, axis=1)
    fall_SP = np.diff(value_SP, axis=1)
    whole_S = np.maximum(length_SP.sum(axis=1), _TINY)
    slope_SP = fall_SP / np.maximum(length_SP, _TINY)
    # A middle above the chord, or at an end, is not on the hull: one slope for both pieces.
    chord_S = (slope_SP[:, 0] >= slope_SP[:, 1]) | (length_SP <= 0.0).any(axis=1)
    slope_SP = np.where(chord_S[:, None], (fall_SP.sum(axis=1) / whole_S)[:, None], slope_SP)
    slope_L, length_L = slope_SP.ravel(), length_SP.ravel()
    order = np.argsort(slope_L, kind="stable")
    before_L = np.cumsum(length_L[order]) - length_L[order]
    rest = max(1.0 - float(share_SP[:, 0].sum()), 0.0)
    filled_L = np.clip(rest - before_L, 0.0, length_L[order])
    return float(value_SP[:, 0].sum() + slope_L[order] @ filled_L)


def _least_log_wealth(reading: _Reading, level: float, bounds: ShareBounds, bets: Bets) -> float:
    """Natural log of the mean over bets of their least wealth within the bounds."""
    size_S, total = reading.size_S, reading.total
    found = []
    for bet, clip in zip(bets.bet_B.tolist(), bets.clip_B.tolist(), strict=True):
        cap_S = clip * size_S / total  # shares up to which rows speak for a slice; 0 without rows
        middle_S = np.clip(cap_S, bounds.low_S, bounds.high_S)
        share_SP = np.stack([bounds.low_S, middle_S, bounds.high_S], axis=1)
        spoken_SP = np.minimum(share_SP, cap_S[:, None])
        stake_SP = bet * total * spoken_SP / np.maximum(size_S, _TINY)[:, None]
        paid_SP = bet * total * (share_SP - spoken_SP) * (1.0 - level)
        found.append(least_sum(share_SP, reading.log_factors(stake_SP) - paid_SP))
    return float(np.logaddexp.reduce(found)) - math.log(len(found))
