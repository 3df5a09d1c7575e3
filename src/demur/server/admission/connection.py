"""A connection that costs no more than it is worth, before anybody has shown a key.

uvicorn's connection (h11), with what it lacks against a hostile client:

1. A body is not parsed before the route asks for it (a small one of stated size excepted): who has
   no key, or sends a body to a route that takes none, is answered at its headers.
2. A body may come in so many pieces only: chunks of a byte each cost as much to parse as chunks of
   kilobytes. Heads are bounded in bytes and in headers.
3. After work that took long the connection rests for twice as long, unread, and a request that was
   sent before the answer to the last one waits PIPELINED_S. So one connection takes a third of the
   loop's time at most.
4. What comes after an answer to a request whose body was not read is thrown away unparsed, for
   LINGER_S, so that the answer is not lost to a reset; then the connection is closed.
5. Without a request the connection is closed after IDLE_S, whatever bytes trickle in.
6. Before a request of it was let in with a key, it shares a fifth of the loop's time with all such
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

# For a request's line and headers, and after an answer for the next request. Clients keep a
# connection for five seconds as a rule: hanging up then, too, would meet requests that are on their
# way.
IDLE_S = 15.0
MOST_HEADERS = 100  # of a request
TURN_PIECES = 128  # of a body, parsed at a time
LONG_S = 0.001  # of parsing: what takes longer is followed by a rest
PIPELINED_S = 0.005  # until a request is looked at that was sent before the answer to the last one
# for which a client may go on sending a body that nobody reads, to be sure that it sees the answer
LINGER_S = 2.0
LINGER_BYTES = 4 << 20  # of that body; more ends the connection at once
FREE_PIECES = 1024  # of a body, of any size
# of a body's stated size: one below 10,000 bytes is skipped faster than a connection is made anew
MOST_DIGITS = 4
PIECE_BYTES = 512  # which pieces beyond them have on average: less than any network's packet


class _Parser(h11.Connection):
    """h11's parser, which leaves a body alone until it is wanted, and counts its pieces."""

    is_held = False  # a body begins here that nobody has asked for
    turn = 0  # pieces parsed since it was last set to 0
    _is_costly = False  # the body is worth a new connection, should nobody read it
    _pieces = _bytes = 0  # of the body so far

    def next_event(self) -> Any:
        """The next event, or NEED_DATA at a body that is held and at the end of a turn.

        Raises RemoteProtocolError for too many headers, and for a body in crumbs.
        """
        if self.is_held or self.turn >= TURN_PIECES:
            return h11.NEED_DATA
        event = super().next_event()
        if isinstance(event, h11.Request):
            if len(event.headers) > MOST_HEADERS:
                raise h11.RemoteProtocolError("too many headers", error_status_hint=431)
            self.is_held = self._is_costly = is_costly(event.headers)
            self._pieces = self._bytes = 0
        elif isinstance(event, h11.Data):
            self.turn += 1
            self._pieces += 1
            self._bytes += len(event.data)
            if self._pieces > FREE_PIECES and self._bytes < PIECE_BYTES * (
                self._pieces - FREE_PIECES
            ):
                raise h11.RemoteProtocolError("the body comes in crumbs", error_status_hint=400)
        return event

    @property
    def is_amid_body(self) -> bool:
        """Whether the client may go on sending what nobody will read."""
        if self.their_state is h11.SEND_BODY:
            return self._is_costly
        return self.their_state is h11.ERROR


class _Flow(FlowControl):
    """uvicorn's flow control, which is how a request asks for (more of) its body."""

    def __init__(self, transport: asyncio.Transport, connection: Connection) -> None:
        super().__init__(transport)
        self._connection = connection

    def resume_reading(self) -> None:
        """Read on, and parse what is here, as soon as the connection does not rest."""
        if not self._connection.is_resting:
            super().resume_reading()
        self._connection.want_body()


class _Line:
    """A transport whose `close` does not cut off a client that is still sending: see LINGER_S."""

    def __init__(self, transport: asyncio.Transport, connection: Connection) -> None:
        self._transport = transport
        self._connection = connection
        self._is_closing = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        """Whether it is closed, or lingers."""
        return self._is_closing or self._transport.is_closing()

    def close(self) -> None:
        """Close at once, or after the client has had time to read its answer."""
        if self.is_closing():
            return
        self._is_closing = True
        if self._connection.is_amid_body and self._transport.can_write_eof():
            self._transport.write_eof()
            self._connection.linger()
        else:
            self._transport.close()


class Connection(H11Protocol):
    """uvicorn's connection within the limits above. sources: of all connections of its server."""

    conn: _Parser
    budget: ConnectionBudget
    is_resting = False  # nothing is parsed now
    _clock: asyncio.TimerHandle | None = None
    _has_turn = False  # it has waited for this moment
    _is_deaf = False  # what still comes is thrown away
    _unheard = 0  # bytes thrown away

    def __init__(self, *args: Any, budgets: AddressBudgets, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._budgets = budgets

    # as uvicorn has it
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is here."""
        self.conn = _Parser(h11.SERVER, self.config.h11_max_incomplete_event_size or 0)
        super().connection_made(_Line(transport, self))  # type: ignore[arg-type]
        self.flow = _Flow(transport, self)
        self.budget = self._budgets.connection(self.client[0] if self.client else "")
        self._wind()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        super().connection_lost(exc)
        self.budget.charge(0.0)
        self._stop()

    def data_received(self, data: bytes) -> None:
        """It says something."""
        if self._is_deaf:
            self._unheard += len(data)
            if self._unheard > LINGER_BYTES:
                self.transport.abort()
            return
        super().data_received(data)
        if self.conn.is_held:  # no more than this piece is kept for a body that may never be wanted
            self.flow.pause_reading()
        self._wind()

    def eof_received(self) -> None:
        """It says nothing more. Half-open, uvicorn would keep it until it is closed on its side
        too.
        """
        if self._is_deaf:
            self.transport.abort()

    def on_response_complete(self) -> None:
        """It has its answer."""
        if self.conn.is_amid_body:
            self.server_state.total_requests += 1
            self.transport.close()
            return
        if self.conn.trailing_data[0]:
            self._rest(PIPELINED_S)
        super().on_response_complete()
        self._wind()

    def handle_events(self) -> None:
        """Parse what is here, a turn of it, then rest if that took long."""
        if self.is_resting:
            return
        if (
            not (self.budget.may_parse or self._has_turn) and self.conn.trailing_data[0]
        ):  # else nothing is there to parse
            self._await_turn()
            return
        began_s = thread_time()  # of the processor: on a busy machine others' turns do not count
        self.conn.turn = 0
        super().handle_events()
        if self.scope is not None:  # of a request whose answer begins when this is over
            self.scope["state"]["demur.budget"] = self.budget
        used_s = thread_time() - began_s
        self.budget.charge(used_s)
        if used_s > LONG_S or self.conn.turn >= TURN_PIECES:
            self._rest(REST_FACTOR * used_s)

    def _await_turn(self) -> None:
        """Neither read nor parse before it is this stranger's turn."""
        if self._is_deaf or self.transport.is_closing():
            return
        if not self.budget.wait(self._take_turn):
            self.transport.abort()
            return
        self.is_resting = True
        self.flow.pause_reading()

    def _take_turn(self) -> None:
        self._has_turn = True
        self._go_on()
        self._has_turn = False

    def _rest(self, for_s: float) -> None:
        """Neither read nor parse for a while."""
        if not (self.is_resting or self._is_deaf or self.transport.is_closing()):
            self.is_resting = True
            self.flow.pause_reading()
            self.loop.call_later(for_s, self._go_on)

    def _go_on(self) -> None:
        self.is_resting = False
        if not (self._is_deaf or self.transport.is_closing()):
            FlowControl.resume_reading(self.flow)
            self.handle_events()
            self._wind()

    def shutdown(self) -> None:
        """The server ends."""
        if self._is_deaf:
            self.transport.abort()
        else:
            super().shutdown()

    @property
    def is_amid_body(self) -> bool:
        """Whether the client may be sending what nobody reads."""
        return self.conn.is_amid_body

    def want_body(self) -> None:
        """Parse the body that is held: its request asks for it."""
        if self.conn.is_held and not self.cycle.response_complete:
            self.conn.is_held = False
            self.budget.authenticate()  # nobody reads a body before the key
            self.handle_events()

    def linger(self) -> None:
        """Throw away what comes, and close soon."""
        self._is_deaf = True
        self._stop()
        # nobody waits for it any more
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        FlowControl.resume_reading(self.flow)
        self._clock = self.loop.call_later(LINGER_S, self.transport.abort)

    def _wind(self) -> None:
        """The clock runs while no request is being answered."""
        if self._is_deaf:
            return
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop()
        elif self._clock is None and not self.transport.is_closing():
            self._clock = self.loop.call_later(IDLE_S, self.transport.close)

    def _stop(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None


def is_costly(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether the body that these headers announce is held until it is wanted. names: in lower
    case.
    """
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and len(value) > MOST_DIGITS)
        for name, value in headers
    )
