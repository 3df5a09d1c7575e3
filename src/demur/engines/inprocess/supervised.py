"""A worker that is watched: one whose step does not end, or whose thread failed, is given up and
replaced.

A thread in native code cannot be ended. It is left behind instead: its callers get an error at
once, and what it may still say is not heard. The new worker runs another tree of modules over the
same weights, so that nothing that the lost thread holds or does (hooks on the output head, a lock
in a module) is in its way; the weights are only read. See docs/decisions/0011.
"""

from __future__ import annotations

import copy
import logging
import threading
from collections import deque
from concurrent.futures import Future
from time import monotonic
from typing import Any

from demur.base.errors import BackendDown
from demur.engines.hf.engine import HfEngine
from demur.engines.inprocess.grammar.process import Grammar
from demur.engines.inprocess.job import Job
from demur.engines.inprocess.limits import BackendLimits
from demur.engines.inprocess.worker import Worker

LOG = logging.getLogger(__name__)
LOOK_S = 1.0  # between two looks at the worker, at most
WINDOW_S = 3600.0  # in which `restarts` are counted


class SupervisedWorker:
    """A Worker as long as one can be had. Safe to use from any thread, like it."""

    def __init__(self, engine: HfEngine, limits: BackendLimits) -> None:
        self._limits = limits
        self._spare = replica(engine)  # before anything runs: a tree that is in use may hold hooks
        self._restarted_s: deque[float] = deque()
        self._worker = Worker(engine, limits)
        self._over = threading.Event()
        self._watch = threading.Thread(target=self._look, name="demur-watch", daemon=True)
        self._watch.start()

    @property
    def writing(self) -> int:
        """Answers that are being written."""
        return self._worker.writing

    def check(self) -> None:
        """Raise BackendDown if no answer would be written now."""
        self._worker.check()

    def probe(self) -> Future[None]:
        """See Worker.probe."""
        return self._worker.probe()

    def add(self, job: Job) -> None:
        """Queue a request. Raises BackendDown if nobody will take it up."""
        self._worker.add(job)

    def cancel(self, job: Job) -> None:
        """Free a request's place."""
        self._worker.cancel(job)  # a job of a worker that was given up has been told its end

    def bind(self, job: Job, grammar: Grammar) -> None:
        """Let an answer under a schema begin."""
        self._worker.bind(job, grammar)

    def stop(self) -> None:
        """End it; every open request gets BackendDown."""
        self._over.set()
        self._watch.join()
        self._worker.stop()

    def _look(self) -> None:
        while not self._over.wait(min(LOOK_S, self._limits.step_s / 4)):
            worker = self._worker
            if worker.stuck:
                worker.abandon(f"a step of the model did not end within {self._limits.step_s:g} s")
            if (why := worker.ended) is not None and not self._replaced(why):
                return

    def _replaced(self, why: BackendDown) -> bool:
        """Begin anew, if that has not been tried too often already."""
        while self._restarted_s and self._restarted_s[0] < monotonic() - WINDOW_S:
            self._restarted_s.popleft()
        if len(self._restarted_s) >= self._limits.restarts:
            LOG.critical(
                "%s; it was started again %d times within an hour: given up",
                why.message,
                len(self._restarted_s),
            )
            return False
        self._restarted_s.append(monotonic())
        LOG.error("%s: started again on the same weights", why.message)
        engine, self._spare = self._spare, replica(self._spare)
        self._worker = Worker(engine, self._limits)
        return True


def replica(engine: HfEngine) -> HfEngine:
    """The same engine with another tree of modules over the very same tensors. Nothing may be
    running in it.
    """
    network: Any = engine.network
    shared = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    other = copy.copy(engine)
    other.network = copy.deepcopy(network, dict(shared))
    return other
