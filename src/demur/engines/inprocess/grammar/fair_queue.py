"""A work queue for a few threads that serves tenants in turn (round robin)."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Callable

from demur.base.errors import BackendBusy

Work = Callable[[], None]


class FairQueue:
    """Threads that do one piece of work of each tenant in turn. Safe to use from any thread.

    waiting: most pieces of work of one tenant in the queue. name: of the threads. Where there are
    several threads, no tenant ever has all of them.
    """

    def __init__(self, threads: int, waiting: int, name: str) -> None:
        self._most_waiting = waiting
        self._most_at_once = max(1, threads - 1)
        self._change = threading.Condition()  # guards everything below
        # queue of each tenant that has work; the first one is served next
        self._waiting: OrderedDict[str, deque[Work]] = OrderedDict()
        self._under_way: Counter[str] = Counter()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._run, name=f"{name}-{n}", daemon=True)
            for n in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def put(self, tenant: str, work: Work) -> None:
        """Queue a piece of work, which must not raise. Raises BackendBusy if the queue is full."""
        with self._change:
            mine = self._waiting.setdefault(tenant, deque())
            if len(mine) >= self._most_waiting:
                raise BackendBusy(
                    f"{len(mine)} schemas of this tenant wait to be prepared", "try again later"
                )
            mine.append(work)
            self._change.notify_all()

    def close(self) -> None:
        """Drop the work that waits and accept no more."""
        with self._change:
            self._closed = True
            self._waiting.clear()
            self._change.notify_all()

    def _run(self) -> None:
        """A thread: does work until the queue is closed."""
        while (taken := self._take()) is not None:
            tenant, work = taken
            try:
                work()
            finally:
                with self._change:
                    self._under_way[tenant] -= 1
                    self._change.notify_all()

    def _take(self) -> tuple[str, Work] | None:
        """Wait for a tenant's next piece of work; None when the queue is closed."""
        with self._change:
            while not self._closed:
                tenant = next(
                    (t for t in self._waiting if self._under_way[t] < self._most_at_once), None
                )
                if tenant is None:
                    self._change.wait()
                    continue
                mine = self._waiting[tenant]
                work = mine.popleft()
                self._waiting.move_to_end(tenant)  # the other tenants come first now
                if not mine:
                    del self._waiting[tenant]
                self._under_way[tenant] += 1
                return tenant, work
            return None
