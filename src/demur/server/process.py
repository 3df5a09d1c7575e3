"""The server process: one event loop, its signals, and its shutdown.

1. SIGTERM or SIGINT: /readyz answers 503; after `linger_s` no connection is accepted any more.
2. Answers being written are finished within `shutdown_s`; then their streams are cut off.
3. The process ends with exit code 0. A second SIGINT skips the waiting.
4. If anything hangs (a disk, a library's thread), the process ends with exit code 1, OVERDUE_S
   after the last of these limits.
5. SIGHUP: policies and tenants are reloaded now.
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
from typing import Protocol

import uvicorn
from fastapi import FastAPI

from demur.server.admission.budgets import AddressBudgets
from demur.server.admission.connection import IDLE_S, Connection
from demur.server.monitoring.log import log_event
from demur.server.reloader import PolicyReloader
from demur.server.state import ServerState

HEAD_BYTES = 16 * 1024  # of a request's line and headers
BACKLOG = 2048  # connections that wait to be accepted
# Connections that asyncio accepts in a row, doing nothing else meanwhile: it takes the number from
# the backlog that it is given.
ACCEPTED = 16
CUT_OFF_S = 5.0  # for streams that were cut off to send their last event
OVERDUE_S = 10.0  # after the last limit of an orderly shutdown, until the process is ended anyhow


class RunningService(Protocol):
    """The service that a process runs: demur.server.app.Service."""

    app: FastAPI
    state: ServerState
    reloader: PolicyReloader
    draining: bool  # whether the process is about to end: /readyz then answers 503


def run_server(service: RunningService, started: Callable[[str], None]) -> None:
    """Serve until a signal to end. Raises OSError if the address cannot be bound.

    started: called with the server's address once it accepts connections.
    """
    settings = service.state.settings
    # Modules and policies stay for good. Frozen, they are not searched by each full collection
    # that a request of many small values sets off.
    gc.collect()
    gc.freeze()
    family = AF_INET6 if ":" in settings.host else AF_INET
    with create_server((settings.host, settings.port), family=family) as listener:
        ServerProcess(service, started).run(sockets=[listener])


class ServerProcess(uvicorn.Server):
    """uvicorn's server for a service. started: called with the address once it listens."""

    def __init__(self, service: RunningService, started: Callable[[str], None]) -> None:
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
        # for faulthandler's traceback, which nobody reads; opened by the first signal to end
        self._null_fd: int | None = None
        self.loop: asyncio.AbstractEventLoop | None = None  # once it runs

    async def startup(self, sockets: list[socket] | None = None) -> None:
        """Listen, and report the address."""
        self.loop = asyncio.get_running_loop()
        for listener in sockets or ():
            # Connections inherit it. asyncio sets it for sockets of its own only. Without it, by
            # Nagle's algorithm, every second piece of an answer waits 40 ms for the client to
            # acknowledge the first.
            listener.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(BACKLOG)  # the kernel's, which asyncio has set to ACCEPTED
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
            log_event(logging.INFO, "listening", address=address)
            self._started(address)

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        """Stop listening; let answers finish, and cut off those that have not after shutdown_s."""

        async def cut_off_late() -> None:
            after_s = self._service.state.settings.shutdown_s
            await asyncio.sleep(after_s)
            log_event(logging.WARNING, "answers cut off", after_s=after_s)
            await self._service.state.backend.close()

        cut_off = asyncio.create_task(cut_off_late())
        try:
            await super().shutdown(sockets)
        finally:
            cut_off.cancel()
        log_event(logging.INFO, "stopped")

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Install our signal handlers. uvicorn's end the process by the signal, not with code 0."""
        # only the main thread may set handlers; servers of tests run in others
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        ours = {
            signal.SIGTERM: self.handle_exit,
            signal.SIGINT: self.handle_exit,
            signal.SIGHUP: self._reload,
        }
        before = {number: signal.signal(number, handler) for number, handler in ours.items()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    # the arguments are those of every signal handler
    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Start the shutdown, with a timer that ends the process if it hangs."""
        if self._null_fd is None:
            limits = self._service.state.settings
            self._null_fd = os.open(os.devnull, os.O_WRONLY)
            # faulthandler waits in a thread of C: neither a held lock nor a stuck event loop keeps
            # it from ending the process.
            within_s = limits.linger_s + limits.shutdown_s + CUT_OFF_S + OVERDUE_S
            faulthandler.dump_traceback_later(within_s, exit=True, file=self._null_fd)
        self.start_shutdown(hurry=sig == signal.SIGINT and self._service.draining)

    def start_shutdown(self, *, hurry: bool = False) -> None:
        """Make /readyz fail, and stop listening after linger_s: load balancers see it meanwhile.

        hurry: stop at once, without waiting for answers.
        """
        self._service.draining = True
        if hurry or self.loop is None:
            self.should_exit, self.force_exit = True, hurry
            return
        # uvicorn's main loop polls `should_exit`, and then calls `shutdown`
        linger_s = self._service.state.settings.linger_s
        stop = partial(setattr, self, "should_exit", True)
        self.loop.call_soon_threadsafe(self.loop.call_later, linger_s, stop)

    # the arguments are those of every signal handler
    def _reload(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if self.loop is not None:
            asyncio.run_coroutine_threadsafe(self._service.reloader.reload_once(), self.loop)
