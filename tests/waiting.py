"""Waiting for a state instead of a time. A minute without it is a hang, on any machine."""

import asyncio
import time
from collections.abc import Callable

HANGS_S = 60.0


def wait_until(true: Callable[[], object], seconds: float = HANGS_S) -> None:
    """Return as soon as this is true: what another thread or process does comes a moment later."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


async def settled(true: Callable[[], object]) -> None:
    """The same beside other tasks of an event loop."""
    async with asyncio.timeout(HANGS_S):
        while not true():
            await asyncio.sleep(0.002)
