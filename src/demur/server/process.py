"""The process: one event loop, its signals, and how it ends.

SIGTERM or SIGINT: /readyz says no, the door closes, answers being written are finished within a
limit, then the process ends by itself with exit code 0. A second SIGINT does not wait. SIGHUP: look
at policies and tenants now. Whatever hangs then (a disk, a thread of a library), the process ends
with exit code 1 OVERDUE_S after that.
"""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from socket import AF_INET, AF_INET6, IPPROTO_TCP, TCP_NODELAY, create_server, socket
from types import FrameType

import uvicorn

from demur.server.admission.budgets import AddressBudgets
from demur.server.admission.connection import IDLE_S, Connection
from demur.server.app import Service
from demur.server.monitoring.log import log_event

HEAD_BYTES = 16 * 1024  # of a request's line and headers
BACKLOG = 2048  # connections that wait to be accepted
ACCEPTED = (
    # of them at a time: asyncio accepts as many as it has set for the backlog, and does nothing
    # else meanwhile
    16
)
CUT_OFF_S = 5.0  # for streams that were cut off to say so
OVERDUE_S = 10.0  # after the last limit of an orderly end, until the process ends anyhow


def run_server(service: Service, started: Callable[[str], None]) -> None:
    """Serve until told to end. Raises OSError if the address cannot be had."""
    settings = service.state.settings
    # What is loaded by now stays: else a request of many small values has all of it searched for
    # garbage, for a while.
    gc.collect()
    gc.freeze()
    family = AF_INET6 if ":" in settings.host else AF_INET
    with create_server((settings.host, settings.port), family=family) as door:
        ServerProcess(service, started).run(sockets=[door])


class ServerProcess(uvicorn.Server):
    """A service behind a socket. started: told its address once it can be reached."""

    def __init__(self, service: Service, started: Callable[[str], None]) -> None:
        settings = service.state.settings
        self.budgets = AddressBudgets()
        super().__init__(
            uvicorn.Config(
                service.app,
                # uvicorn only calls it
                http=partial(Connection, budgets=self.budgets),  # type: ignore[arg-type]
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                backlog=ACCEPTED,
                h11_max_incomplete_event_size=HEAD_BYTES,
                timeout_keep_alive=int(2 * IDLE_S),
                timeout_graceful_shutdown=int(settings.shutdown_s + CUT_OFF_S),
            )
        )
        self._service = service
        self._started = started
        # where nothing is read; opened with the first signal to end
        self._nowhere: int | None = None
        self.loop: asyncio.AbstractEventLoop | None = None  # once it runs

    async def startup(self, sockets: list[socket] | None = None) -> None:
        """Open the door."""
        self.loop = asyncio.get_running_loop()
        for door in sockets or ():
            # Connections inherit it. asyncio sees to that for sockets of its own only; without,
            # every second piece of an answer waits 40 ms for the client to acknowledge the one
            # before.
            door.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
        await super().startup(sockets)
        for door in sockets or ():
            door.listen(BACKLOG)  # the kernel's, which asyncio has set to ACCEPTED
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
            log_event(logging.INFO, "listening", address=address)
            self._started(address)

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        """Close the door; let answers finish, then end those that have not."""
        cut_off = asyncio.create_task(self._cut_off())
        try:
            await super().shutdown(sockets)
        finally:
            cut_off.cancel()
        log_event(logging.INFO, "stopped")

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Ours instead of uvicorn's, which ends by the signal itself: an orderly end is exit code
        0.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        ours = {
            signal.SIGTERM: self.handle_exit,
            signal.SIGINT: self.handle_exit,
            signal.SIGHUP: self._look_again,
        }
        before = {number: signal.signal(number, handler) for number, handler in ours.items()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    # what a handler is given
    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Begin to end, and see to it that the process does."""
        if self._nowhere is None:
            limits = self._service.state.settings
            self._nowhere = os.open(os.devnull, os.O_WRONLY)
            # A thread of C's: neither a held lock nor a stuck loop keeps it from ending the
            # process.
            within_s = limits.linger_s + limits.shutdown_s + CUT_OFF_S + OVERDUE_S
            faulthandler.dump_traceback_later(within_s, exit=True, file=self._nowhere)
        self.start_shutdown(hurry=sig == signal.SIGINT and self._service.draining)

    def start_shutdown(self, *, hurry: bool = False) -> None:
        """Not ready any more; the door closes when load balancers have had time to see that."""
        self._service.draining = True
        if hurry or self.loop is None:
            self.should_exit, self.force_exit = True, hurry
            return
        self.loop.call_soon_threadsafe(
            self.loop.call_later, self._service.state.settings.linger_s, self._close_door
        )

    def _close_door(self) -> None:
        self.should_exit = True

    # what a handler is given
    def _look_again(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if self.loop is not None:
            asyncio.run_coroutine_threadsafe(self._service.reloader.reload_once(), self.loop)

    async def _cut_off(self) -> None:
        await asyncio.sleep(self._service.state.settings.shutdown_s)
        log_event(
            logging.WARNING, "answers cut off", after_s=self._service.state.settings.shutdown_s
        )
        await self._service.state.backend.close()
