"""Tests and bounds of a rate over a stated mix of slices, on rows of another mix.

1. The rate is the sum over slices s of share_s times the rate in s, the shares being the caller's.
   Rows of a slice are a sample of that slice, whatever their number.
2. A row of slice s weighs share_s over its slice's part of the tested requests. The excess of a row
   is weight * (error - level): its sum over all rows has the mean n (rate - level).
3. Constant bets against "the rate is above the level" are fixed before errors are seen. Their
   wealth, a product of 1 - bet * excess, has an expectation of at most 1 then: by the inequality of
   arithmetic and geometric means a product of factors with different means is largest where all
   are alike. Wealth of 1 / delta refutes with probability delta at most.

It is Learn then Test (arXiv 2110.01052) with importance weights that are known, not estimated,
and so costs nothing but their spread. Evidence is counted in two ways, as in demur.stats.units, and
both must pass:

- By requests: each request weighs its slice's share over the slice's part of the requests.
- By units: the rate of a slice is the mean over its units of each unit's share of errors there. A
  unit weighs a slice's share over the slice's part of the units, in every slice that it has rows
  in. With the weights of requests a slice of large units would weigh too little.

Where decisions put rows into the denominator (precision), the mix is of all requests, and rows that
stay outside have an excess of 0: the rate among those inside exceeds the level exactly where the
mean excess exceeds 0.

Shapes: M rows of a denominator, U units, S slices, P pairs of a unit and a slice that it is
in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from demur.base.arrays import Bools, Doubles, Ints
from demur.base.errors import DataError
from demur.core.rates import TrafficMix
from demur.stats.judging.betting import constant_bets, least_refuted, log_wealth
from demur.stats.units import DECIDED, CountedRows, DecidedRows, bet_sizes, unit_slices

SETTLED = ("kind", "category")  # facets whose slices a row's label has in it, or keeps it from


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class WeightedRows(DecidedRows):
    """The M rows of a denominator, each with the weight that its slice has in a stated mix."""

    weight_M: Doubles  # mean 1 over requests
    pair_M: Ints  # the pair of each row that is counted by units
    unit_P: Ints
    weight_P: Doubles  # of a unit in a slice; the sum over all pairs is U
    mix: TrafficMix
    untested: bool  # whether a slice that has a share has no row among these

    def test(self, level: float, delta: float) -> WeightedTest | None:
        """The test of "the rate under the mix is at most level" at delta; None if it fails even
        without an error.
        """
        if not len(self.row_M) or self.untested:
            return None
        found = WeightedTest(
            rows=self,
            level=level,
            least_log=math.log(1.0 / delta),
            bets=self._bets(level, delta),
            most=int(level * self.requests),
        )
        return found if found.passes(self._no_error) else None

    def needed(self, level: float, delta: float) -> int:
        """The fewest units, mixed as these, that pass the test when no error is seen."""
        log_wealth = self.log_wealth(self._no_error, level, self._bets(level, delta))
        return math.ceil(self.units * math.log(1.0 / delta) / max(log_wealth, 1e-9))

    def p_value(self, error_N: Bools, level: float, delta: float) -> float:
        """The p-value of "the rate under the mix is above level"; 1 without rows."""
        if not self.counted_M.any() or self.untested:
            return 1.0
        return math.exp(-max(self.log_wealth(error_N, level, self._bets(level, delta)), 0.0))

    def upper(self, error_N: Bools, delta: float) -> float:
        """One-sided upper confidence bound of the rate under the mix; 1 without rows."""
        if not self.counted_M.any() or self.untested:
            return 1.0
        return least_refuted(lambda level: self.p_value(error_N, level, delta) <= delta)

    def mean(self, error_N: Bools) -> float:
        """The rate under the mix, as these rows estimate it."""
        weight_M = self.weight_M * self.count_M * self.counted_M
        return float((weight_M * error_N[self.row_M]).sum() / weight_M.sum())

    def words(self, error_N: Bools, delta: float) -> str:  # noqa: ARG002
        """The rate under the mix, for people."""
        return f"about {self.mean(error_N):.2%} for traffic of {self.mix.words}"

    def log_wealth(self, error_N: Bools, level: float, bets: UnitBets) -> float:
        """Natural log of the mean wealth of the bets: the lesser of that by units and by
        requests.
        """
        # Bets against "the mean excess is at least 0".
        excess_U = self._excess_of_units(error_N, level)
        by_units = log_wealth(0.0, bets.unit_B, excess_U, np.ones(len(excess_U)))
        if self.plain:
            return by_units
        excess_M = self.weight_M * np.where(self.counted_M, error_N[self.row_M] - level, 0.0)
        return min(by_units, log_wealth(0.0, bets.request_B, excess_M, self.count_M))

    @property
    def _no_error(self) -> Bools:
        return np.zeros(int(self.row_M.max()) + 1, dtype=bool)

    def _excess_of_units(self, error_N: Bools, level: float) -> Doubles:
        """The weighted excess of each unit, over the slices that it has rows in."""
        own_M = self.in_units_M
        count_M = self.count_M[own_M].astype(np.float64)
        excess_M = np.where(self.counted_M, error_N[self.row_M] - level, 0.0)[own_M]
        mean_P = np.bincount(self.pair_M, weights=count_M * excess_M) / np.bincount(
            self.pair_M, weights=count_M
        )
        excess_P = self.weight_P * mean_P
        return np.asarray(np.bincount(self.unit_P, weights=excess_P), dtype=np.float64)

    def _bets(self, level: float, delta: float) -> UnitBets:
        """Sizes of bets from weights and units alone; the largest keeps every factor positive."""
        weight_U = np.bincount(self.unit_P, weights=self.weight_P)
        of_units = float((weight_U**2).mean())
        of_requests = float((self.count_M * self.weight_M**2).sum() / self.requests)
        alike, aim = level * (1.0 - level), math.log(1.0 / delta)
        most_U, most_M = (
            1.0 / ((1.0 - level) * float(weight.max())) for weight in (weight_U, self.weight_M)
        )
        # Of rows outside the denominator the excess is 0, so that its variance may be far smaller:
        # how much, must not be told by the tested rows.
        parts = DECIDED if self.decided else (1.0,)
        by_units = [bet_sizes(self, alike * of_units * part, delta, most_U) for part in parts]
        by_requests = [
            constant_bets(alike * of_requests * part, self.requests, 1.0, aim, most_M)
            for part in parts
        ]
        return UnitBets(unit_B=np.concatenate(by_units), request_B=np.concatenate(by_requests))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class UnitBets:
    """Sizes of constant bets, by units and by requests."""

    unit_B: Doubles
    request_B: Doubles


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class WeightedTest:
    """A test of "the rate under the mix is at most level", monotone in the errors."""

    rows: WeightedRows
    level: float
    least_log: float  # natural log of the wealth that refutes
    bets: UnitBets
    most: int  # errors that would be right at the level, to learn an order by

    def passes(self, error_N: Bools) -> bool:
        """Whether these errors certify the level."""
        return self.rows.log_wealth(error_N, self.level, self.bets) >= self.least_log


def mix_among(mix: TrafficMix, among_N: Bools, goal: str) -> TrafficMix:
    """The mix among the rows that a goal speaks of: shares of kinds and categories that have none
    of them are left out, and the others scaled to sum to 1.

    Raises DataError where none is left, and on another slice with a share and without a row: its
    rate is not known. goal: as its text says it.
    """
    slices = len(mix.share_S)
    rows_S = np.bincount(mix.slice_N[among_N], minlength=slices)
    missing_S = (rows_S == 0) & (mix.share_S > 0.0)
    if missing_S.any() and mix.facet not in SETTLED:
        name = mix.names[int(np.argmax(missing_S))]
        raise DataError(
            f"goal {goal!r}: the mix has {mix.words}, and none of the {int(rows_S.sum())} rows "
            f"that it speaks of is of {mix.facet} {name!r}: nothing is known of its rate there",
            "add such rows, give the slice no share, or drop the goal",
        )
    share_S = np.where(rows_S > 0, mix.share_S, 0.0)
    if not share_S.sum() > 0.0:
        raise DataError(
            f"goal {goal!r}: the mix {mix.words} has no share for the {int(rows_S.sum())} rows "
            "that the goal speaks of",
            "give their slices a share, or drop the goal",
        )
    return replace(mix, share_S=share_S / share_S.sum())


def weighted(rows: CountedRows, mix: TrafficMix, counted_N: Bools | None = None) -> WeightedRows:
    """Weigh the rows of a denominator by their slices' shares. counted_N: the rows that decisions
    put into it; None: all.
    """
    everyone_M = np.ones(len(rows.row_M), dtype=bool)
    slices, slice_M = len(mix.share_S), mix.slice_N[rows.row_M]
    part_S = np.bincount(slice_M, weights=rows.count_M, minlength=slices)
    weight_S = mix.share_S / np.maximum(part_S, 1.0) * part_S.sum()
    unit_P, slice_P, pair_M = unit_slices(rows, slice_M, slices)
    units_S = np.bincount(slice_P, minlength=slices)
    return WeightedRows(
        row_M=rows.row_M,
        count_M=rows.count_M,
        unit_M=rows.unit_M,
        drawn_M=rows.drawn_M,
        counted_M=everyone_M if counted_N is None else counted_N[rows.row_M],
        decided=counted_N is not None,
        weight_M=weight_S[slice_M],
        pair_M=pair_M,
        unit_P=unit_P,
        weight_P=(mix.share_S / np.maximum(units_S, 1) * rows.units)[slice_P],
        mix=mix,
        untested=bool((mix.share_S[(part_S == 0) | (units_S == 0)] > 0.0).any()),
    )
