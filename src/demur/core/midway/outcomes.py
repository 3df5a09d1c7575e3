"""What became of requests under a policy with a monitor: refused at once, stopped midway, answered.

Stops are found by the records of followed answers (demur.core.midway.followed), so that every
answer counts for the rates of stops, also where the first decision refuses. Shapes: N answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from demur.base.arrays import Bools, Doubles, Ints
from demur.core.midway.compared import ComparedPeaks
from demur.core.midway.followed import ScoredAnswer
from demur.core.midway.monitor import Monitor
from demur.core.rates import Rate

EDGES = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)  # of positions and of lengths, doubling


@dataclass(frozen=True, kw_only=True, slots=True)
class Fates:
    """Numbers of requests of one kind, by what became of them."""

    at_once: int  # refused by the first decision
    midway: int  # answered, and stopped
    answered: int  # to the end

    @property
    def of(self) -> int:
        """All of them."""
        return self.at_once + self.midway + self.answered


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Stops:
    """Where a monitor stops N answers."""

    position_N: Ints  # tokens ahead of the stop; -1: not stopped
    tokens_N: Ints  # of the whole answer
    held_back: int

    @property
    def stopped_N(self) -> Bools:
        """Which answers are stopped."""
        return np.asarray(self.position_N >= 0, dtype=bool)

    @property
    def leaked_N(self) -> Ints:
        """Tokens that a stream has sent at the stop, of stopped answers: all but the held back."""
        position_M = self.position_N[self.stopped_N]
        return np.asarray(np.maximum(position_M - self.held_back, 0), dtype=np.int64)

    def fates(self, refused_N: Bools, among_N: Bools) -> Fates:
        """What becomes of these requests. refused_N: by the first decision."""
        at_once_N, stopped_N = among_N & refused_N, among_N & ~refused_N & self.stopped_N
        at_once, midway = int(at_once_N.sum()), int(stopped_N.sum())
        return Fates(at_once=at_once, midway=midway, answered=int(among_N.sum()) - at_once - midway)

    def rate(self, among_N: Bools) -> Rate:
        """Stopped, among these answers, whatever the first decision is."""
        return Rate(hits=int((self.stopped_N & among_N).sum()), of=int(among_N.sum()))

    def by_position(self, among_N: Bools) -> list[tuple[str, int]]:
        """Stops of these answers by the tokens ahead of them; bins of EDGES that hold one."""
        bins = _bins(self.position_N[self.stopped_N & among_N])
        return [(name, len(at)) for name, at in bins]

    def by_length(self, among_N: Bools) -> list[tuple[str, Rate]]:
        """The rate of stops among these answers by their length in tokens."""
        rows = np.flatnonzero(among_N)
        stopped_M = self.stopped_N[rows]
        return [
            (name, Rate(hits=int(stopped_M[at].sum()), of=len(at)))
            for name, at in _bins(self.tokens_N[rows])
        ]


def stops_of(monitor: Monitor, answers: Sequence[ScoredAnswer]) -> Stops:
    """Where a monitor stops these answers."""
    found = [answer.stop(monitor) for answer in answers]
    return Stops(
        position_N=np.array(
            [-1 if stop is None else stop.position for stop in found], dtype=np.int64
        ),
        tokens_N=np.array([answer.tokens for answer in answers], dtype=np.int64),
        held_back=monitor.held_back,
    )


def trade_off(
    compared: ComparedPeaks, answerable_N: Bools, harmful_N: Bools, points: int = 12
) -> list[tuple[float, Rate, Rate]]:
    """Thresholds of the compared number from strict to lenient (natural log), in even steps of
    false stops, each with the false stops and the missed ones.
    """
    benign_M = np.sort(compared.logq_N[answerable_N])[::-1]
    if not len(benign_M):
        return []
    at = np.unique(np.geomspace(1, len(benign_M), points).astype(int)) - 1
    thresholds: Doubles = np.unique(benign_M[at][np.isfinite(benign_M[at])])[::-1]
    found = []
    for value in thresholds.tolist():
        stopped_N = compared.logq_N >= value
        false = Rate(hits=int((stopped_N & answerable_N).sum()), of=int(answerable_N.sum()))
        missed = Rate(hits=int((~stopped_N & harmful_N).sum()), of=int(harmful_N.sum()))
        found.append((value, false, missed))
    return found


def _bins(value_M: Ints) -> list[tuple[str, Ints]]:
    """Values by the doubling bin that they are in: its name, and the places of its values."""
    bin_M = np.searchsorted(np.array(EDGES), value_M, side="right") - 1
    found = []
    for b in np.unique(bin_M).tolist():
        last = EDGES[b + 1] - 1 if b + 1 < len(EDGES) else None
        name = f"{EDGES[b]} or more" if last is None else f"{EDGES[b]} to {last}"
        name = str(EDGES[b]) if last == EDGES[b] else name
        found.append((name, np.flatnonzero(bin_M == b).astype(np.int64)))
    return found
