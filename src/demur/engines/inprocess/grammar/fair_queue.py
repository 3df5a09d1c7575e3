"""Work for a few threads, shared out between tenants in turn: who has much work waits for it, and
nobody else.
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Callable

from demur.base.errors import BackendBusy

Work = Callable[[], None]


class FairQueue:
    """Threads that take up work of one tenant after the other. Safe to use from any thread.

    A tenant never has all threads, if there are several. Raises BackendBusy, on `put`, when a
    tenant has `waiting` pieces of work already.
    """

    def __init__(self, threads: int, waiting: int, name: str) -> None:
        self._most_waiting = waiting
        self._most_at_once = max(1, threads - 1)
        self._change = threading.Condition()  # guards everything below
        # by tenant; the first is served next
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
        """Have a piece of work done. It must raise nothing."""
        with self._change:
            mine = self._waiting.setdefault(tenant, deque())
            if len(mine) >= self._most_waiting:
                raise BackendBusy(
                    f"{len(mine)} schemas of this tenant wait to be prepared", "try again later"
                )
            mine.append(work)
            self._change.notify_all()

    def close(self) -> None:
        """Take up nothing more."""
        with self._change:
            self._closed = True
            self._waiting.clear()
            self._change.notify_all()

    def _run(self) -> None:
        while (taken := self._take()) is not None:
            tenant, work = taken
            try:
                work()
            finally:
                with self._change:
                    self._under_way[tenant] -= 1
                    self._change.notify_all()

    def _take(self) -> tuple[str, Work] | None:
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
                self._waiting.move_to_end(tenant)
                if not mine:
                    del self._waiting[tenant]
                self._under_way[tenant] += 1
                return tenant, work
            return None
