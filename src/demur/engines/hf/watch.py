"""Watchers of answers that are decoded: a trace of position scores, a policy's monitor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from random import Random

import numpy as np

from demur.base.arrays import Floats
from demur.core.midway.monitor import AnswerSampling, Monitor, MonitorState, Stop
from demur.core.serving import Sampling
from demur.engines.hf.decode import AnswerRow


class Trace:
    """The position scores of one answer, in order; stops nothing."""

    def __init__(self) -> None:
        self._scores: list[Floats] = []

    def push(self, logp_C: Floats) -> None:
        """Append the score of a position."""
        self._scores.append(logp_C)

    def logp_TC(self, size: int) -> Floats:
        """The scores so far, (T, C). size: C."""
        rows = [logp_C[None, :] for logp_C in self._scores]
        return np.concatenate([np.empty((0, size), dtype=np.float32), *rows])


class StopWatch:
    """A monitor on one answer, and where it stopped the answer."""

    def __init__(self, monitor: Monitor) -> None:
        self._state = MonitorState(monitor)
        self.stop: Stop | None = None

    def push(self, logp_C: Floats) -> int | None:
        """The refusal's column, where the answer stops ahead of this position."""
        self.stop = self._state.push(logp_C)
        return None if self.stop is None else self.stop.column


def answer_seed(ids: Sequence[int], draw: int = 0) -> int:
    """Seed of the answer that is drawn after these ids, the same in every batch and run. draw: of
    several answers.
    """
    text = repr(tuple(ids)) + (f" {draw}" if draw else "")
    return int.from_bytes(sha256(text.encode()).digest()[:8], "big")


def drawn(row: AnswerRow, sampling: AnswerSampling, ids: Sequence[int], draw: int = 0) -> AnswerRow:
    """The same row, its tokens chosen as `sampling` says. ids: all that the answer follows."""
    how = Sampling(temperature=sampling.temperature, top_p=sampling.top_p)
    return replace(row, sampling=how, random=Random(answer_seed(ids, draw)))
