"""A connection that is not held for nothing: by a client that sends no request, or a body that nobody reads."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

# For a request's line and headers, and after an answer for the next request, or the rest of a body that was refused.
# Clients keep a connection for five seconds as a rule: hanging up then, too, would meet requests that are on their way.
IDLE_S = 15.0


class Connection(H11Protocol):
    """uvicorn's connection, closed when it has been without a request for IDLE_S, whatever bytes trickle in.

    uvicorn itself waits for ever for the first request and, after an answer, for as long as anything comes.
    """

    _clock: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """A client is here."""
        super().connection_made(transport)
        self._wind()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        super().connection_lost(exc)
        self._stop()

    def data_received(self, data: bytes) -> None:
        """It says something."""
        super().data_received(data)
        self._wind()

    def on_response_complete(self) -> None:
        """It has its answer."""
        super().on_response_complete()
        self._wind()

    def _wind(self) -> None:
        """The clock runs while no request is being answered."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop()
        elif self._clock is None and not self.transport.is_closing():
            self._clock = self.loop.call_later(IDLE_S, self.transport.close)

    def _stop(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None
