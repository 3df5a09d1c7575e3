"""uvicorn's HTTP/1.1 connection (h11), bounded against hostile clients before they show a key.

1. A body is not parsed before the route asks for it (a small one of stated size excepted): a
   request without a key, or with a body for a route that takes none, is answered at its headers.
2. The number of a body's pieces is bounded: chunks of a byte each cost as much to parse as chunks
   of kilobytes. Heads are bounded in bytes and in headers.
3. After parsing that took long the connection pauses for twice as long, unread, and a request that
   was sent before the answer to the last one waits PIPELINED_S. So one connection takes at most a
   third of the loop's time.
4. After an answer to a request whose body was not read, what still comes is discarded unparsed for
   LINGER_S, and then the connection is closed. Closing at once would reset it, and the client would
   lose the answer.
5. Without a request the connection is closed after IDLE_S, whatever bytes trickle in.
6. Until a request of it is admitted with a key, it shares a fifth of the loop's time with all such
   connections of its address: demur.server.admission.budgets.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from time import thread_time
from typing import Any

import h11
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.h11_impl import H11Protocol

from demur.server.admission.budgets import REST_FACTOR, AddressBudgets, ConnectionBudget

# For a request's line and headers, and after an answer for the next request. Clients usually keep a
# connection for five seconds: closing it after as long would meet requests that are on their way.
IDLE_S = 15.0
MOST_HEADERS = 100  # of a request
TURN_PIECES = 128  # of a body, parsed at a time
LONG_S = 0.001  # of parsing: what takes longer is followed by a pause
PIPELINED_S = 0.005  # until a request is looked at that was sent before the answer to the last one
# for which a client may go on sending an unread body, to be sure that it sees the answer
LINGER_S = 2.0
LINGER_BYTES = 4 << 20  # of that body; more ends the connection at once
FREE_PIECES = 1024  # of a body, each of any size
PIECE_BYTES = 512  # least mean size of the pieces beyond them: less than any network's packet
# of a body's stated size: one below 10,000 bytes is skipped faster than a connection is made anew
MOST_DIGITS = 4


class _Parser(h11.Connection):
    """h11's parser, which does not parse a body before it is asked for, and counts its pieces."""

    is_body_held = False  # a body begins here that no route has asked for
    turn_pieces = 0  # pieces parsed in this turn
    _is_costly = False  # skipping the body would cost more than a new connection
    _pieces = _bytes = 0  # of the body so far

    def next_event(self) -> Any:
        """Return the next event, or NEED_DATA at a held body and at the end of a turn.

        Raises RemoteProtocolError for too many headers, and for a body in too many tiny pieces.
        """
        if self.is_body_held or self.turn_pieces >= TURN_PIECES:
            return h11.NEED_DATA
        event = super().next_event()
        if isinstance(event, h11.Request):
            if len(event.headers) > MOST_HEADERS:
                raise h11.RemoteProtocolError("too many headers", error_status_hint=431)
            self.is_body_held = self._is_costly = is_costly(event.headers)
            self._pieces = self._bytes = 0
        elif isinstance(event, h11.Data):
            self.turn_pieces += 1
            self._pieces += 1
            self._bytes += len(event.data)
            # at least PIECE_BYTES per piece on average, beyond the first FREE_PIECES
            counted = max(0, self._pieces - FREE_PIECES)
            if self._bytes < PIECE_BYTES * counted:
                raise h11.RemoteProtocolError("the body comes in crumbs", error_status_hint=400)
        return event

    @property
    def is_amid_body(self) -> bool:
        """Whether the client may go on sending a body that nobody will read."""
        if self.their_state is h11.SEND_BODY:
            return self._is_costly
        return self.their_state is h11.ERROR


class _FlowControl(FlowControl):
    """uvicorn's flow control; a request asks for (more of) its body by resuming it."""

    def __init__(self, transport: asyncio.Transport, connection: Connection) -> None:
        super().__init__(transport)
        self._connection = connection

    def resume_reading(self) -> None:
        """Read on, unless the connection pauses, and parse a held body."""
        if not self._connection.is_paused:
            super().resume_reading()
        self._connection.parse_held_body()


class _LingeringTransport:
    """A transport whose `close` lingers for a client that is still sending: see LINGER_S."""

    def __init__(self, transport: asyncio.Transport, connection: Connection) -> None:
        self._transport = transport
        self._connection = connection
        self._is_closing = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        """Whether the transport is closing, closed or lingering."""
        return self._is_closing or self._transport.is_closing()

    def close(self) -> None:
        """Close at once, or linger so that the client can read its answer."""
        if self.is_closing():
            return
        self._is_closing = True
        if self._connection.is_amid_body and self._transport.can_write_eof():
            # half-close: the client sees the end of the answer while it may still send
            self._transport.write_eof()
            self._connection.linger()
        else:
            self._transport.close()


class Connection(H11Protocol):
    """uvicorn's connection with the limits above. budgets: shared by the server's connections."""

    conn: _Parser
    budget: ConnectionBudget
    is_paused = False  # nothing is read or parsed now
    _idle_timer: asyncio.TimerHandle | None = None  # closes the connection; also while it lingers
    _has_turn = False  # it has waited at its address, and may parse now
    _is_lingering = False  # what still comes is discarded
    _discarded = 0  # bytes

    def __init__(self, *args: Any, budgets: AddressBudgets, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._budgets = budgets

    # uvicorn narrows the parameter's type as well
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Set up parser, flow control and budget of a new connection."""
        self.conn = _Parser(h11.SERVER, self.config.h11_max_incomplete_event_size or 0)
        super().connection_made(_LingeringTransport(transport, self))  # type: ignore[arg-type]
        self.flow = _FlowControl(transport, self)
        self.budget = self._budgets.connection(self.client[0] if self.client else "")
        self._update_idle_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Charge a connection that is gone, and stop its timer."""
        super().connection_lost(exc)
        self.budget.charge(0.0)
        self._stop_idle_timer()

    def data_received(self, data: bytes) -> None:
        """Parse what was received, or discard it while lingering."""
        if self._is_lingering:
            self._discarded += len(data)
            if self._discarded > LINGER_BYTES:
                self.transport.abort()
            return
        super().data_received(data)
        # no more than this piece is buffered for a body that may never be asked for
        if self.conn.is_body_held:
            self.flow.pause_reading()
        self._update_idle_timer()

    def eof_received(self) -> None:
        """Abort a lingering connection once its client closes its side; uvicorn would keep it."""
        if self._is_lingering:
            self.transport.abort()

    def on_response_complete(self) -> None:
        """Linger after an unread body, else go on to the next request."""
        if self.conn.is_amid_body:
            self.server_state.total_requests += 1
            self.transport.close()
            return
        if self.conn.trailing_data[0]:
            self._pause(PIPELINED_S)
        super().on_response_complete()
        self._update_idle_timer()

    def handle_events(self) -> None:
        """Parse one turn of what was received, charge it, and pause if it took long."""
        if self.is_paused:
            return
        # without received bytes there is nothing to wait for
        if not (self.budget.may_parse or self._has_turn) and self.conn.trailing_data[0]:
            self._await_turn()
            return
        began_s = thread_time()  # CPU time: what other processes take is not charged
        self.conn.turn_pieces = 0
        super().handle_events()
        # a request's scope; its answer begins after this, and is charged by the middleware
        if self.scope is not None:
            self.scope["state"]["demur.budget"] = self.budget
        used_s = thread_time() - began_s
        self.budget.charge(used_s)
        if used_s > LONG_S or self.conn.turn_pieces >= TURN_PIECES:
            self._pause(REST_FACTOR * used_s)

    def _await_turn(self) -> None:
        """Wait, unread, for the address to be free; abort if too many wait there."""
        if self._is_lingering or self.transport.is_closing():
            return
        if not self.budget.wait(self._take_turn):
            self.transport.abort()
            return
        self.is_paused = True
        self.flow.pause_reading()

    def _take_turn(self) -> None:
        """Parse once, whether or not the address is free: the address calls this on its turn."""
        self._has_turn = True
        self._resume()
        self._has_turn = False

    def _pause(self, for_s: float) -> None:
        """Neither read nor parse for so many seconds."""
        if not (self.is_paused or self._is_lingering or self.transport.is_closing()):
            self.is_paused = True
            self.flow.pause_reading()
            self.loop.call_later(for_s, self._resume)

    def _resume(self) -> None:
        self.is_paused = False
        if not (self._is_lingering or self.transport.is_closing()):
            FlowControl.resume_reading(self.flow)
            self.handle_events()
            self._update_idle_timer()

    def shutdown(self) -> None:
        """Close when the server shuts down; a lingering connection has had its answer."""
        if self._is_lingering:
            self.transport.abort()
        else:
            super().shutdown()

    @property
    def is_amid_body(self) -> bool:
        """Whether the client may still be sending a body that nobody reads."""
        return self.conn.is_amid_body

    def parse_held_body(self) -> None:
        """Parse the held body, because its request asks for it."""
        if self.conn.is_body_held and not self.cycle.response_complete:
            self.conn.is_body_held = False
            self.budget.authenticate()  # routes read no body before they have admitted the key
            self.handle_events()

    def linger(self) -> None:
        """Discard what still comes, and abort after LINGER_S."""
        self._is_lingering = True
        self._stop_idle_timer()
        # end a request that still runs: its client reads no answer any more
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        FlowControl.resume_reading(self.flow)
        self._idle_timer = self.loop.call_later(LINGER_S, self.transport.abort)

    def _update_idle_timer(self) -> None:
        """Run the idle timer while no request is being answered, and stop it otherwise."""
        if self._is_lingering:
            return
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_idle_timer()
        elif self._idle_timer is None and not self.transport.is_closing():
            self._idle_timer = self.loop.call_later(IDLE_S, self.transport.close)

    def _stop_idle_timer(self) -> None:
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None


def is_costly(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether a body with these headers is parsed only on request: chunked, or of a large size.

    headers: names in lower case.
    """
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and len(value) > MOST_DIGITS)
        for name, value in headers
    )
