"""Supervision of the decoding thread: a worker that hangs or fails is abandoned and replaced.

1. A thread looks at the worker every LOOK_S. A step that takes too long is stuck.
2. A thread in native code cannot be ended, so a stuck worker is abandoned: its callers get an error
   at once, and nothing that its thread still posts is delivered.
3. The new worker runs a copy of the module tree over the same weights, so that hooks and locks of
   the lost thread are not in its way; the weights are only read.
4. After `restarts` replacements within an hour the server stays not ready.

See docs/decisions/0011.
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
LOOK_S = 1.0  # longest time between two looks at the worker
WINDOW_S = 3600.0  # window in which restarts are counted


class SupervisedWorker:
    """A Worker that is replaced when it hangs or fails. Safe to use from any thread."""

    def __init__(self, engine: HfEngine, limits: BackendLimits) -> None:
        self._limits = limits
        # Copied before anything runs: modules in use may hold hooks.
        self._spare = replica(engine)
        self._restarted_s: deque[float] = deque()
        self._worker = Worker(engine, limits)
        self._over = threading.Event()
        self._watch = threading.Thread(target=self._look, name="demur-watch", daemon=True)
        self._watch.start()

    @property
    def writing(self) -> int:
        """Number of answers that are being written."""
        return self._worker.writing

    def check(self) -> None:
        """Raise BackendDown if the model writes no answers now."""
        self._worker.check()

    def probe(self) -> Future[None]:
        """A future that is done when the model has computed something; see Worker.probe."""
        return self._worker.probe()

    def add(self, job: Job) -> None:
        """Queue a request. Raises BackendDown if the model writes no answers now."""
        self._worker.add(job)

    def cancel(self, job: Job) -> None:
        """Free a request's place."""
        self._worker.cancel(job)  # a job of an abandoned worker has its error already

    def bind(self, job: Job, grammar: Grammar) -> None:
        """Begin an answer under a schema."""
        self._worker.bind(job, grammar)

    def stop(self) -> None:
        """End the worker and its supervision; every open request gets BackendDown."""
        self._over.set()
        self._watch.join()
        self._worker.stop()

    def _look(self) -> None:
        """Look at the worker at intervals; replace it if it has ended."""
        while not self._over.wait(min(LOOK_S, self._limits.step_s / 4)):
            worker = self._worker
            if worker.stuck:
                worker.abandon(f"a step of the model did not end within {self._limits.step_s:g} s")
            if (why := worker.ended) is not None and not self._replaced(why):
                return

    def _replaced(self, why: BackendDown) -> bool:
        """Start a new worker on the spare modules; False after too many restarts."""
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
    """Copy an engine's module tree over the same tensors. No thread may be running the engine."""
    # deepcopy takes what its memo holds as copied already: so the tensors are shared.
    network: Any = engine.network
    shared = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    other = copy.copy(engine)
    other.network = copy.deepcopy(network, dict(shared))
    return other
