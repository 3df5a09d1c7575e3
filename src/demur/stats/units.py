"""Tests and bounds of a rate on rows that may err together and may stand for several requests.

A unit is one piece of evidence: the rows of one group or session, or one row. Evidence is counted
in two ways, and a test must pass both:

1. By units: the mean over units of each unit's share of errors is at most the level. Where units
   have several rows, two tests share delta: the exact binomial test on one row drawn from each, and
   bets against the level on the units' shares.
2. By requests: the exact binomial test over all requests, each row as often as its count says.

Both nulls are tested at delta, because a rate above the level under the reading that holds makes
its own test pass with probability delta at most (intersection-union): so a pass is right where
units are drawn independently, and where requests are. Independent rows of one request each have one
reading, the exact binomial.

Intervals have the same two readings, and are the wider of both. Bets: demur.stats.judging.betting.

Shapes: N rows, M rows of a denominator, U units among these, B sizes of bets.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from demur.base.arrays import Bools, Doubles, Ints, numbered
from demur.core.example import Example
from demur.core.rates import Rate, binomial_cdf, lower_bound, most_errors, rows_needed, upper_bound
from demur.stats.judging.betting import betting_upper, constant_bets, log_wealth, tabled

_SEED = 0  # draws one row of each unit for an interval
_OF_GROUPS = 0x6209  # a stream of its own, whatever the caller's seed also drew
TAUGHT = -1  # the unit of a row that is counted by requests alone
DECIDED = (1.0, 0.2, 0.04)  # parts of rows that decisions may leave to count, for sizes of bets
_DRAWN = 0.8  # of delta, for the exact test on drawn rows; the bets have the rest


class RateTest(Protocol):
    """A test of "the rate is at most level" at some delta, monotone in the errors.

    An error more never turns a failure into a pass, so that a fixed sequence of nested errors can
    be searched by bisection.
    """

    @property
    def most(self) -> int:
        """About the most errors, in requests, that pass."""

    def passes(self, error_N: Bools) -> bool:
        """Whether these errors certify the level."""


@dataclass(frozen=True, kw_only=True, slots=True)
class UnitRate(Rate):
    """A rate over requests, hits / of, whose bounds also hold if only units are independent: the
    wider of both readings' (see the head of this file).
    """

    drawn: int  # hits among one row of each unit, drawn at random
    shares: tuple[tuple[float, int], ...]  # (share of hits, units that have it), by share
    # variance of a unit's share over that of one request, if its requests were independent: the
    # mean over units. 1: no unit has several rows
    apart: float

    @property
    def units(self) -> int:
        """The number of units: pieces of evidence."""
        return sum(units for _, units in self.shares)

    def upper(self, delta: float) -> float:
        """One-sided upper bound, the larger of both readings'."""
        return max(
            upper_bound(self.hits, self.of, delta),
            _upper_of_units(self.drawn, self.shares, self.apart, delta),
        )

    def lower(self, delta: float) -> float:
        """One-sided lower bound, the smaller of both readings'."""
        # The upper bound of the share of misses, mirrored.
        misses = tuple((1.0 - share, units) for share, units in reversed(self.shares))
        return min(
            lower_bound(self.hits, self.of, delta),
            1.0 - _upper_of_units(self.units - self.drawn, misses, self.apart, delta),
        )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CountedRows:
    """The M rows of a denominator, among N: which unit each belongs to, and how many requests it
    stands for.
    """

    row_M: Ints  # indices among all N rows
    count_M: Ints  # requests, at least 1
    unit_M: Ints  # 0 to U - 1; TAUGHT: requests that test, of a unit that does not
    drawn_M: Bools  # one row of each unit, drawn at random

    @property
    def requests(self) -> int:
        """The number of requests."""
        return int(self.count_M.sum())

    @property
    def units(self) -> int:
        """The number of units: pieces of evidence."""
        return int(self.drawn_M.sum())

    @property
    def linked(self) -> bool:
        """Whether some unit has several rows."""
        return bool(self.units < self.in_units_M.sum())

    @property
    def in_units_M(self) -> Bools:
        """The rows that are counted by units, too."""
        return np.asarray(self.unit_M != TAUGHT, dtype=bool)

    @property
    def apart(self) -> float:
        """Variance of a unit's share over that of one request if its requests erred independently,
        the mean over units; 1 where no unit has several rows.
        """
        if not self.linked:
            return 1.0
        own_M = self.in_units_M
        unit_M, count_M = self.unit_M[own_M], self.count_M[own_M].astype(np.float64)
        count_U = np.bincount(unit_M, weights=count_M)
        return float((np.bincount(unit_M, weights=count_M**2) / count_U**2).mean())

    @property
    def plain(self) -> bool:
        """Whether every row is a unit and stands for one request."""
        return self.units == len(self.row_M) == self.requests

    def rate(self, error_N: Bools) -> Rate:
        """Errors out of requests, as files hold them: without the units that its interval needs."""
        return Rate(hits=int(self.count_M[error_N[self.row_M]].sum()), of=self.requests)

    def words(self, error_N: Bools, delta: float) -> str:  # noqa: ARG002
        """What the rows are as evidence, for people; empty where every row is one request alone.

        delta: that bounds of shares are made for.
        """
        if self.plain:
            return ""
        return (
            f"{self.requests} requests in {self.units} groups, sessions or rows alone, "
            f"{self.shares(error_N).mean():.2%} err by these"
        )

    def measured(self, error_N: Bools) -> Rate:
        """Errors out of requests; its interval covers the true rate if units are drawn
        independently, and if requests are.
        """
        rate = self.rate(error_N)
        if self.plain:
            return rate
        return UnitRate(
            hits=rate.hits,
            of=rate.of,
            drawn=self._drawn_errors(error_N),
            shares=tabled(self.shares(error_N)),
            apart=self.apart,
        )

    def shares(self, error_N: Bools) -> Doubles:
        """The share of errors among the requests of each unit, shape (U,)."""
        own_M = self.in_units_M
        unit_M, count_M = self.unit_M[own_M], self.count_M[own_M]
        errors_U = np.bincount(unit_M, weights=count_M * error_N[self.row_M[own_M]])
        return np.asarray(errors_U / np.bincount(unit_M, weights=count_M))

    def test(self, level: float, delta: float) -> RateTest | None:
        """The test of "the rate is at most level" at delta; None if it fails even without an
        error.
        """
        most = most_errors(self.requests, level, delta)
        if most is None:
            return None
        if self.plain:
            return CountTest(rows=self, level=level, most=most)
        drawn, bets = self._parts(delta)
        found = CountTest(
            rows=self,
            level=level,
            most=most,
            drawn=_or_none(most_errors(self.units, level, drawn)),
            least_log=math.log(1.0 / bets),
            bet_B=_bets(self, level, bets) if self.linked else np.empty(0),
            by_units=True,
        )
        return found if found.passes(np.zeros(int(self.row_M.max()) + 1, dtype=bool)) else None

    def needed(self, level: float, delta: float) -> int:
        """The fewest units that pass the test when no error is seen."""
        return rows_needed(level, delta * self.drawn_share)

    @property
    def drawn_share(self) -> float:
        """The part of delta that the exact test on drawn rows gets."""
        return self._parts(1.0)[0]

    def p_value(self, error_N: Bools, level: float, delta: float) -> float:
        """The p-value of "the rate is above level"; 1 without rows. delta: that the bets are sized
        for.
        """
        if not len(self.row_M):
            return 1.0
        rate = self.rate(error_N)
        by_requests = binomial_cdf(rate.hits, rate.of, level)
        if self.plain:
            return by_requests
        by_units = binomial_cdf(self._drawn_errors(error_N), self.units, level)
        if self.linked:
            bets = _bets(self, level, self._parts(delta)[1])
            by_bets = math.exp(-max(_log_wealth(self.shares(error_N), level, bets), 0.0))
            by_units = min(1.0, by_units / _DRAWN, by_bets / (1.0 - _DRAWN))
        return max(by_requests, by_units)

    def upper(self, error_N: Bools, delta: float) -> float:
        """One-sided upper confidence bound of the rate: the least level that the test at delta
        would pass; 1 without rows.
        """
        return self.measured(error_N).upper(delta) if len(self.row_M) else 1.0

    def _parts(self, delta: float) -> tuple[float, float]:
        """The shares of delta of the test on drawn rows and of the bets."""
        return (delta * _DRAWN, delta * (1.0 - _DRAWN)) if self.linked else (delta, delta)

    def _drawn_errors(self, error_N: Bools) -> int:
        return int((error_N[self.row_M] & self.drawn_M).sum())


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DecidedRows(CountedRows):
    """The M rows that a goal may speak of, some of which decisions put into the denominator."""

    counted_M: Bools  # whether decisions put the row into the denominator
    decided: bool  # whether that depends on decisions at all

    def measured(self, error_N: Bools) -> Rate:
        """Errors out of the requests in the denominator, with their units."""
        if not self.decided:
            return CountedRows.measured(self, error_N)
        none_M, alone_M = self.unit_M == TAUGHT, len(self.unit_M) + np.arange(len(self.unit_M))
        units_M = np.where(none_M, alone_M, self.unit_M)
        return unit_rate(error_N[self.row_M], self.counted_M, units_M, self.count_M)

    def rate(self, error_N: Bools) -> Rate:
        """Errors out of the requests in the denominator."""
        count_M = self.counted_M * self.count_M
        return Rate(hits=int(count_M[error_N[self.row_M]].sum()), of=int(count_M.sum()))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CountTest:
    """The test of counted rows: the exact binomial, by requests and by units, and bets on units'
    shares.
    """

    rows: CountedRows
    level: float
    most: int  # errors among all requests that pass
    drawn: int = -1  # errors among the drawn rows that pass; -1: none
    least_log: float = 0.0  # natural log of the wealth that refutes
    bet_B: Doubles | None = None
    by_units: bool = False  # False: rows are plain, and `most` says all

    def passes(self, error_N: Bools) -> bool:
        """Whether these errors certify the level."""
        error_M = error_N[self.rows.row_M]
        if int(self.rows.count_M[error_M].sum()) > self.most:
            return False
        if not self.by_units or int((error_M & self.rows.drawn_M).sum()) <= self.drawn:
            return True
        if self.bet_B is None or not len(self.bet_B):
            return False
        return _log_wealth(self.rows.shares(error_N), self.level, self.bet_B) >= self.least_log


def last_passing(passes: Callable[[int], bool], steps: int) -> int:
    """The last of 0, 1, ..., `steps` that passes, where each pass implies those before it; step 0
    is taken to pass.
    """
    low, high = 0, steps + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if passes(middle) else (low, middle)
    return low


def count_rows(
    among_N: Bools,
    group_N: Ints | None,
    count_N: Ints | None,
    seed: int,
    taught_N: Bools | None = None,
) -> CountedRows:
    """Count the rows of a denominator. seed: draws one row of each unit. taught_N: rows of units
    that taught what is tested (demur.stats.sample): they are counted by requests alone.
    """
    row_M = np.flatnonzero(among_N)
    count_M = np.ones(len(row_M), dtype=np.int64) if count_N is None else count_N[row_M]
    units_N = among_N if taught_N is None else among_N & ~taught_N
    own_M = units_N[row_M]
    unit_M, drawn_M = np.full(len(row_M), TAUGHT), own_M
    if group_N is None:
        unit_M[own_M] = np.arange(own_M.sum())
    else:
        unit_M[own_M] = renumbered(group_N[row_M[own_M]])
        drawn_M = one_per_group(group_N, units_N, seed, count_N)[row_M]
    return CountedRows(row_M=row_M, count_M=count_M, unit_M=unit_M, drawn_M=drawn_M)


def requests_of(rows_N: Bools, count_N: Ints | None) -> int:
    """The number of requests that these rows stand for; count_N: None: one each."""
    return int(rows_N.sum() if count_N is None else count_N[rows_N].sum())


def one_per_group(
    group_N: Ints | None, among_N: Bools, seed: int, count_N: Ints | None = None
) -> Bools:
    """Mark one random row of each group of rows among these; every row if there are no groups.

    Rows made from one another err together. Counted one by one they would count as more evidence
    than they are, and an exact binomial bound would not hold. count_N: requests of each row, by
    which it is drawn, so that the drawn row errs with the probability of the group's share.
    """
    if group_N is None:
        return np.ones(len(among_N), dtype=bool)
    rng, row_M = np.random.default_rng([seed, _OF_GROUPS]), np.flatnonzero(among_N)
    if count_N is None or (count_N[row_M] == 1).all():
        order = rng.permutation(row_M)
    else:
        # Of exponential times with these rates, the first is each row's with a probability that is
        # its part of the group's requests.
        order = row_M[np.argsort(rng.exponential(size=len(row_M)) / count_N[row_M])]
    # In random order, the first row of each group is a uniform draw from it: written last here.
    unit_M = renumbered(group_N[order])
    drawn_U = np.zeros(int(unit_M.max(initial=-1)) + 1, dtype=np.int64)
    drawn_U[unit_M[::-1]] = order[::-1]
    marked_N = np.zeros(len(among_N), dtype=bool)
    marked_N[drawn_U] = True
    return marked_N


def renumbered(group_M: Ints) -> Ints:
    """The groups' numbers from 0 on without gaps, in their order: np.unique's inverse, without a
    sort where numbers are small.
    """
    highest = int(group_M.max(initial=0))
    if int(group_M.min(initial=0)) < 0 or highest > 8 * len(group_M) + 1000:
        return np.unique(group_M, return_inverse=True)[1]
    there_G = np.zeros(highest + 1, dtype=bool)
    there_G[group_M] = True
    return np.asarray((np.cumsum(there_G) - 1)[group_M])


def bet_sizes(rows: CountedRows, alike: float, delta: float, most: float) -> Doubles:
    """Sizes of constant bets against a mean, from the rows' units alone. alike: the variance of a
    unit's value at the level if its rows err all alike. most: the largest stake.
    """
    return constant_bets(alike, rows.units, rows.apart, math.log(1.0 / delta), most)


def _bets(rows: CountedRows, level: float, delta: float) -> Doubles:
    """Sizes of bets on shares: 1 / (1 - level) is the most that a share of 1 can take."""
    return bet_sizes(rows, level * (1.0 - level), delta, 1.0 / (1.0 - level))


def _log_wealth(share_U: Doubles, level: float, bet_B: Doubles) -> float:
    # Equal shares, mostly 0 and 1, are one factor to a power: few different ones are left.
    value_V, times_V = np.unique(share_U, return_counts=True)
    return log_wealth(level, bet_B, value_V, times_V)


def _upper_of_units(
    drawn: int, shares: tuple[tuple[float, int], ...], apart: float, delta: float
) -> float:
    """Upper bound of the mean share at this delta: on drawn rows, or by bets."""
    units = sum(units for _, units in shares)
    if not units:  # every row taught what is tested: nothing is known by units
        return 1.0
    if apart == 1.0:  # one row a unit: the drawn rows are all rows
        return upper_bound(drawn, units, delta)
    most = upper_bound(drawn, units, delta * _DRAWN)
    return betting_upper(shares, apart, delta * (1.0 - _DRAWN), most)


def _or_none(most: int | None) -> int:
    return -1 if most is None else most


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RowUnits:
    """Which unit each of N rows belongs to, and how many requests it stands for."""

    group_N: Ints  # equal numbers: one unit
    count_N: Ints  # requests, at least 1

    @classmethod
    def of(cls, rows: int, group_N: Ints | None = None, count_N: Ints | None = None) -> RowUnits:
        """Of so many rows. Without groups every row is a unit, without counts one request."""
        return cls(
            group_N=np.arange(rows) if group_N is None else group_N,
            count_N=np.ones(rows, dtype=np.int64) if count_N is None else count_N,
        )

    @property
    def plain(self) -> bool:
        """Whether every row is a unit and stands for one request."""
        unit_N = renumbered(self.group_N)
        return int(unit_N.max(initial=-1)) + 1 == len(unit_N) and bool((self.count_N == 1).all())

    def at(self, row_M: Bools | Ints) -> RowUnits:
        """The same of some of the rows."""
        return RowUnits(group_N=self.group_N[row_M], count_N=self.count_N[row_M])

    def rate(self, hit_N: Bools, among_N: Bools) -> Rate:
        """The rate of hits among these rows; see unit_rate."""
        return unit_rate(hit_N, among_N, self.group_N, self.count_N)


def unit_slices(rows: CountedRows, slice_M: Ints, slices: int) -> tuple[Ints, Ints, Ints]:
    """The pairs of a unit and a slice that it has rows in, and the pair of each row that is counted
    by units: (unit of each pair, slice of each pair, pair of each such row).
    """
    own_M = rows.in_units_M
    pair, pair_M = np.unique(rows.unit_M[own_M] * slices + slice_M[own_M], return_inverse=True)
    return pair // slices, pair % slices, pair_M


def units_of(examples: Sequence[Example]) -> RowUnits:
    """The units and counts of these rows."""
    count_N = np.array([e.count for e in examples], dtype=np.int64)
    return RowUnits(group_N=numbered([e.unit for e in examples]), count_N=count_N)


def unit_rate(hit_N: Bools, among_N: Bools, group_N: Ints | None, count_N: Ints | None) -> Rate:
    """The rate of hits among these rows, over requests. Its interval covers the true rate if units
    are drawn independently, and if requests are.

    group_N: equal numbers are one unit; None: every row is one. count_N: requests that a row stands
    for; None: one each. A plain Rate where each row is a unit and one request.
    """
    return count_rows(among_N, group_N, count_N, _SEED).measured(hit_N)
