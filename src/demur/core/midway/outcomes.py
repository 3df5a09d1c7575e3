"""Where a monitor stops answers, found by the records of followed answers
(demur.core.midway.followed). Shapes: N answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from demur.base.arrays import Bools, Ints
from demur.core.midway.followed import ScoredAnswer
from demur.core.midway.monitor import Monitor

EDGES = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)  # of positions and of lengths, doubling


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
        """Tokens that a stream has sent at the stop: all but the held back. 0: not stopped."""
        return np.asarray(np.maximum(self.position_N - self.held_back, 0), dtype=np.int64)


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


def bins(value_N: Ints, among_N: Bools) -> list[tuple[str, Bools]]:
    """The doubling bins of EDGES that some of these values are in: name, and which are in it."""
    bin_N = np.searchsorted(np.array(EDGES), value_N, side="right") - 1
    found = []
    for b in np.unique(bin_N[among_N]).tolist():
        last = EDGES[b + 1] - 1 if b + 1 < len(EDGES) else None
        name = f"{EDGES[b]} or more" if last is None else f"{EDGES[b]} to {last}"
        name = str(EDGES[b]) if last == EDGES[b] else name
        found.append((name, np.asarray(among_N & (bin_N == b), dtype=bool)))
    return found
