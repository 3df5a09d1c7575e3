"""Calls of the decoding thread on its callers' event loops: one message per loop and step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from demur.engines.inprocess.job import Job

Call = Callable[[], object]


class Outbox:
    """Calls that wait to be made, each on the event loop of its job. Belongs to one thread."""

    def __init__(self) -> None:
        self._calls: list[tuple[Job, Call]] = []

    def add(self, job: Job, call: Callable[..., object], *arguments: object) -> None:
        """Append a call; `deliver` makes calls in the order in which they were added."""
        self._calls.append((job, partial(call, *arguments)))

    def clear(self) -> None:
        """Drop all calls without making them."""
        self._calls.clear()

    def deliver(self) -> None:
        """Make all calls. Waking an event loop costs more than a call, so each is woken once."""
        calls, self._calls = self._calls, []
        for loop in {job.loop for job, _ in calls}:
            mine = [(job, call) for job, call in calls if job.loop is loop]
            try:
                loop.call_soon_threadsafe(_make, [call for _, call in mine])
            except RuntimeError:  # the event loop is closed, and everybody who waited went with it
                for job, _ in mine:
                    job.cancelled = True


def _make(calls: Sequence[Call]) -> None:
    """Run calls in order: on the event loop."""
    for call in calls:
        call()
