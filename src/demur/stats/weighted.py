"""Tests and bounds of a rate over a stated mix of slices, on rows of another mix.

1. The rate is the sum over slices s of share_s times the rate in s, the shares being the caller's.
   Rows of a slice are a sample of that slice, whatever their number.
2. A row of slice s weighs share_s over its slice's part of the tested requests. The excess of a row
   is weight * (error - level): its sum over all rows has the mean n (rate - level).
3. Constant bets against "the rate is above the level" are fixed before errors are seen. Their
   wealth, a product of 1 - bet * excess, has an expectation of at most 1 then: by the inequality of
   arithmetic and geometric means a product of factors with different means is largest where all
   are alike. Wealth of 1 / delta refutes with probability delta at most.

It is Learn then Test (arXiv 2110.01052) with importance weights that are known, not estimated, and
so costs nothing but their spread. Evidence is counted by units and by requests, as in
demur.stats.units, and both must pass. Shapes: M rows of a denominator, U units, S slices.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from demur.base.arrays import Bools, Doubles
from demur.base.errors import DataError
from demur.core.rates import TrafficMix
from demur.stats.judging.betting import log_wealth
from demur.stats.units import BISECTIONS, CountedRows, bet_sizes


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class WeightedRows(CountedRows):
    """The M rows of a denominator, each with the weight that its slice has in a stated mix."""

    weight_M: Doubles  # mean 1 over requests
    mix: TrafficMix

    def test(self, level: float, delta: float) -> WeightedTest | None:
        """The test of "the rate under the mix is at most level" at delta; None if it fails even
        without an error.
        """
        if not len(self.row_M):
            return None
        found = WeightedTest(
            rows=self,
            level=level,
            least_log=math.log(1.0 / delta),
            bet_B=self._bets(level, delta),
            most=int(level * self.requests),
        )
        return found if found.passes(np.zeros(int(self.row_M.max()) + 1, dtype=bool)) else None

    def needed(self, level: float, delta: float) -> int:
        """The fewest units, mixed as these, that pass the test when no error is seen."""
        log_wealth = self.log_wealth(
            np.zeros(int(self.row_M.max()) + 1, dtype=bool), level, self._bets(level, delta)
        )
        return math.ceil(self.units * math.log(1.0 / delta) / max(log_wealth, 1e-9))

    def p_value(self, error_N: Bools, level: float, delta: float) -> float:
        """The p-value of "the rate under the mix is above level"; 1 without rows."""
        if not len(self.row_M):
            return 1.0
        return math.exp(-max(self.log_wealth(error_N, level, self._bets(level, delta)), 0.0))

    def upper(self, error_N: Bools, delta: float) -> float:
        """One-sided upper confidence bound of the rate under the mix; 1 without rows."""
        if not len(self.row_M):
            return 1.0
        low, high = self.mean(error_N), 1.0
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            refuted = self.p_value(error_N, middle, delta) <= delta
            low, high = (low, middle) if refuted else (middle, high)
        return high

    def mean(self, error_N: Bools) -> float:
        """The rate under the mix, as these rows estimate it."""
        weight_M = self.weight_M * self.count_M
        return float((weight_M * error_N[self.row_M]).sum() / weight_M.sum())

    def words(self, error_N: Bools) -> str:
        """The rate under the mix, for people."""
        return f"about {self.mean(error_N):.2%} for traffic of {self.mix.words}"

    def log_wealth(self, error_N: Bools, level: float, bet_B: Doubles) -> float:
        """Natural log of the mean wealth of the bets: the lesser of that by units and by
        requests.
        """
        excess_M = self.weight_M * (error_N[self.row_M] - level)
        sums_U = np.bincount(self.unit_M, weights=excess_M * self.count_M)
        excess_U = sums_U / np.bincount(self.unit_M, weights=self.count_M)
        # Bets against "the mean excess is at least 0".
        by_units = log_wealth(0.0, bet_B, excess_U, np.ones(len(excess_U)))
        if self.plain:
            return by_units
        return min(by_units, log_wealth(0.0, bet_B, excess_M, self.count_M))

    def _bets(self, level: float, delta: float) -> Doubles:
        """Sizes of bets from weights and units alone; the largest keeps every factor positive."""
        square = float((self.count_M * self.weight_M**2).sum() / self.requests)
        most = 1.0 / ((1.0 - level) * float(self.weight_M.max()))
        return bet_sizes(self, level * (1.0 - level) * square, delta, most)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class WeightedTest:
    """A test of "the rate under the mix is at most level", monotone in the errors."""

    rows: WeightedRows
    level: float
    least_log: float  # natural log of the wealth that refutes
    bet_B: Doubles
    most: int  # errors that would be right at the level, to learn an order by

    def passes(self, error_N: Bools) -> bool:
        """Whether these errors certify the level."""
        return self.rows.log_wealth(error_N, self.level, self.bet_B) >= self.least_log


def weighted(rows: CountedRows, mix: TrafficMix) -> WeightedRows:
    """Weigh the rows of a denominator by their slices' shares.

    Shares of slices without a row among these are left out, and the others scaled to sum to 1.
    Raises DataError where the mix has none of them.
    """
    slice_M = mix.slice_N[rows.row_M]
    part_S = np.bincount(slice_M, weights=rows.count_M, minlength=len(mix.share_S))
    share_S = np.where(part_S > 0, mix.share_S, 0.0)
    if not share_S.sum() > 0.0:
        raise DataError(
            f"the mix {mix.words} has no share for the {part_S.sum():.0f} requests that a goal "
            "speaks of",
            "give their slices a share, or drop the goal",
        )
    weight_S = share_S / share_S.sum() / np.maximum(part_S, 1.0) * part_S.sum()
    return WeightedRows(
        row_M=rows.row_M,
        count_M=rows.count_M,
        unit_M=rows.unit_M,
        drawn_M=rows.drawn_M,
        weight_M=weight_S[slice_M],
        mix=mix,
    )
