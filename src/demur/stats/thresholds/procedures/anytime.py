"""Tests that stay valid however often one looks while labels come: an e-process for each step of a
path. The path itself: certify_anytime in demur.stats.thresholds.procedures.sequences.

1. Thresholds move along a path that rows of the first look fix. Later rows test its steps, and none
   of them changes the path.
2. The evidence E against "the rate is above the level" is the likelihood of all labels so far,
   averaged over rates below the level, divided by their likelihood at the level. While the rate is
   at or above the level E is a nonnegative supermartingale that starts at 1, so by Ville's
   inequality (1939) P(E ever reaches 1 / delta) <= delta.
3. A step is certified where E of each goal has reached 1 / delta there and at all steps before it.
   The first step with a rate above its level would have to pass, whichever look certifies it: that
   happens with probability delta at most over all looks together.
4. Both readings of linked rows must pass: by requests, and by units, of which the row that came
   first counts alone, so that a later row of a unit changes nothing. The order of a unit's rows
   must be drawn at random, each first with its part of the unit's requests.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from demur.base.arrays import Bools
from demur.stats.judging.any_look import most_errors_anytime, upper_at_any_look
from demur.stats.labelled import LabelledScores
from demur.stats.thresholds.problem import Arrived, LearnTestSplit
from demur.stats.units import CountedRows


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class AnytimeTest:
    """A test of "the rate is at most level" by evidence that may be looked at after every row."""

    rows: CountedRows
    came_first_M: Bools  # the row of each unit that came first
    most: int  # errors among all requests that pass
    drawn: int  # errors among the first rows of units that pass

    def passes(self, error_N: Bools) -> bool:
        """Whether these errors certify the level."""
        error_M = error_N[self.rows.row_M]
        by_requests = int(self.rows.count_M[error_M].sum()) <= self.most
        return by_requests and int((error_M & self.came_first_M).sum()) <= self.drawn


def anytime_split(
    rows: LabelledScores, among_N: Bools, arrived: Arrived | None, *, learns: bool
) -> LearnTestSplit:
    """The rows that fix the path, and those that test it. Units never cross.

    Rows that no goal speaks of fix it, as far as the first look had them. among_N: rows that some
    goal speaks of. arrived: None: all rows came at once. learns: whether the first of the rows that
    goals speak of fix it, too.
    """
    unit_N = place_N = np.arange(len(among_N))
    if rows.group_N is not None:
        unit_N = rows.group_N
    when = arrived or Arrived(learn=math.ceil(0.4 * len(among_N)), first=len(among_N))
    # Only what the first look had may fix the path, so that no later row can move it.
    first_N = place_N < when.first
    learn_N = first_N & ~np.isin(unit_N, unit_N[first_N & among_N])
    if learns:
        learn_N |= place_N < when.learn
    return LearnTestSplit(learn_N=learn_N, test_N=~np.isin(unit_N, unit_N[learn_N]))


def anytime_test(
    rows: CountedRows, level: float, delta: float, *, at_once: bool = False
) -> AnytimeTest | None:
    """The test of "the rate is at most level" at delta; None if it fails even without an error.

    at_once: all rows came at once, in any order: the row that speaks for a unit is drawn.
    """
    came_first_M = rows.drawn_M if at_once else _came_first(rows)
    most = most_errors_anytime(rows.requests, level, delta)
    drawn = most_errors_anytime(int(came_first_M.sum()), level, delta)
    if most is None or drawn is None:
        return None
    return AnytimeTest(rows=rows, came_first_M=came_first_M, most=most, drawn=drawn)


def anytime_upper(rows: CountedRows, error_N: Bools, delta: float) -> float:
    """One-sided upper confidence bound of the rate that holds at every look: the least level that
    the test at delta would pass; 1 without rows.
    """
    error_M = error_N[rows.row_M]
    came_first_M = _came_first(rows)
    by_requests = upper_at_any_look(int(rows.count_M[error_M].sum()), rows.requests, delta)
    by_units = upper_at_any_look(
        int((error_M & came_first_M).sum()), int(came_first_M.sum()), delta
    )
    return max(by_requests, by_units)


def _came_first(rows: CountedRows) -> Bools:
    """Mark the row of each unit that came first; rows are in the order in which they came."""
    marked_M = np.zeros(len(rows.row_M), dtype=bool)
    marked_M[np.unique(rows.unit_M, return_index=True)[1]] = True
    return marked_M
