"""The wire to a server that speaks OpenAI's protocol: an answer or a stream at a time, every
failure a typed one.

What a caller may learn stands in the error; the operator learns more from the log. The other side's
own words reach neither: an error over there may repeat what somebody said over here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from demur.base.errors import BackendBusy, BackendDown, BackendTimeout, ConfigError, EngineError
from demur.engines.remote.bounded_read import (
    MOST_BYTES,
    ReadLimits,
    ResponseTooLarge,
    StreamCutOff,
    read_bounded,
    read_events,
)
from demur.engines.remote.declines import FilteredDecline, declined_error, error_words
from demur.engines.remote.dialect import LIMIT, Dialect
from demur.engines.remote.http_request import (
    EndpointRequest,
    RejectedRequest,
    open_client,
    send_request,
)

LOG = logging.getLogger(__name__)
_SEE_LOG = "the log of this server says more"
_MOST_TRIED = 6  # forms of one request, until the endpoint takes its fields
# for which a connection is kept: servers hang up after five, perhaps just as we use it again
_IDLE_S = 2.0
_REFUSED = (400, 413, 422)
_REFUSES, _WHY = (
    "the backend refuses the request",
    "it is too long, or asks for a schema that cannot be followed",
)

Row = TypeVar("Row", bound=BaseModel)
T = TypeVar("T")


class _Transient(BackendDown):
    """A failure that may pass by itself: worth another try as long as nothing has been decided."""

    def __init__(self, message: str, hint: str, *, retry_after_s: float = 0.0) -> None:
        super().__init__(message, hint)
        self.retry_after_s = retry_after_s  # the wait that the backend asks for


@dataclass(frozen=True, kw_only=True, slots=True)
class UpstreamOptions:
    """Where the server behind is, and how long it may take."""

    url: str  # up to and including /v1, as OpenAI's own client takes it
    api_key: str | None = field(default=None, repr=False)
    connect_s: float = 5.0  # to connect; also to wait for one of the connections
    decide_s: float = 30.0  # a whole one-token call: its queueing over there and all tries
    first_token_s: float = 60.0
    stall_s: float = 30.0  # between two events of a stream
    connections: int = 256  # a request holds one while it is decided or written
    tries: int = 3  # of a call before the decision; nothing is tried again once it is made
    backoff_s: float = 0.1  # before the second try; twice that before the third, and so on
    most_bytes: int = MOST_BYTES  # of one answer, beside 4 KiB for each token that was asked for
    # or "max_completion_tokens"; the other one is tried where the endpoint asks for it
    token_limit: str = LIMIT
    leave_out: tuple[str, ...] = ()  # of temperature, top_p, seed, stream_options: never sent

    def __post_init__(self) -> None:
        Dialect(limit=self.token_limit, leave_out=tuple(self.leave_out))  # raises ConfigError
        if self.most_bytes < 1:
            raise ConfigError(
                f"most_bytes = {self.most_bytes} must be above 0", "leave it out for 4 MiB"
            )


class UpstreamClient:
    """Connections to one server.

    Raises BackendDown, BackendTimeout and BackendBusy; EngineError where the server refuses the
    request itself.
    """

    def __init__(self, options: UpstreamOptions) -> None:
        self._options = options
        self._streams: set[EventStream] = set()
        self._bounds = ReadLimits(body=options.most_bytes)
        self._dialect = Dialect(limit=options.token_limit, leave_out=tuple(options.leave_out))
        self._client = open_client(
            options.url,
            options.api_key,
            # Reading is timed by what the bytes mean, see Events.
            httpx.Timeout(None, connect=options.connect_s, pool=options.connect_s),
            httpx.Limits(
                max_connections=options.connections,
                max_keepalive_connections=options.connections,
                keepalive_expiry=_IDLE_S,
            ),
        )

    async def get(self, path: str, kind: type[Row]) -> Row:
        """A small document."""
        with _typed_errors(self._options.decide_s):
            async with asyncio.timeout(self._options.decide_s):
                return parse_body(await self._whole(EndpointRequest(path=path)), kind)

    async def ask(self, path: str, body: dict[str, Any], read: Callable[[bytes], T]) -> T:
        """The answer to a request that changes nothing over there: tried again when it fails in
        passing.

        read: makes something of the body. Raises FilteredDecline where the server's filter declines
        the request.
        """
        with _typed_errors(self._options.decide_s):
            async with asyncio.timeout(self._options.decide_s):
                return read(
                    await self._again(partial(self._whole, EndpointRequest(path=path, body=body)))
                )

    async def stream(
        self, path: str, body: dict[str, Any], *, undecided: bool = False
    ) -> EventStream:
        """The events of an answer, once the server has accepted the request.

        undecided: nothing was decided yet, so what fails in passing is tried again; else it never
        is. Raises FilteredDecline where the server's filter declines the request.
        """
        begin = partial(self._sent, EndpointRequest(path=path, body=body))
        with _typed_errors(self._options.first_token_s):
            async with asyncio.timeout(self._options.first_token_s):
                response = await (self._again(begin) if undecided else begin())
        data = read_events(response, self._bounds, int(body.get(LIMIT, 0)))
        events = EventStream(response, data, self._options, self._streams)
        self._streams.add(events)
        return events

    async def close(self) -> None:
        """Break off all streams and let the connections go."""
        for events in list(self._streams):
            await events.aclose()
        await self._client.aclose()

    def _require_open(self) -> None:
        if self._client.is_closed:
            raise BackendDown("the backend was closed", "start the server again")

    async def _again(self, attempt: Callable[[], Awaitable[T]]) -> T:
        for tried in range(1, self._options.tries):
            try:
                return await attempt()
            except _Transient as e:
                if (
                    e.retry_after_s > self._options.decide_s
                ):  # the caller would be gone before the next try
                    raise
                await asyncio.sleep(max(self._options.backoff_s * tried, e.retry_after_s))
        return await attempt()

    async def _whole(self, request: EndpointRequest) -> bytes:
        response = await self._sent(request)
        try:
            with _typed_errors(self._options.decide_s):
                return await read_bounded(response, self._bounds.body)
        finally:
            await response.aclose()

    async def _sent(self, request: EndpointRequest) -> httpx.Response:
        """The open answer to a request, in the first form that the server takes. Raises what
        `_refusal` says.
        """
        self._require_open()
        dialect = self._dialect
        for left in reversed(range(_MOST_TRIED)):
            try:
                with _typed_errors(self._options.first_token_s):
                    response = await send_request(self._client, request, dialect, self._bounds)
            except RejectedRequest as e:
                if e.retry_dialect is None or not left:
                    raise _rejection_error(e) from None
                dialect = e.retry_dialect
            else:
                self._dialect = dialect
                return response
        raise AssertionError("unreachable: the last try returns or raises")


class EventStream:
    """The data of a stream of server-sent events, up to [DONE]. Closing it early ends the work over
    there.

    Raises BackendTimeout when nothing comes for too long, BackendDown when the stream ends without
    [DONE].
    """

    def __init__(
        self,
        response: httpx.Response,
        data: AsyncIterator[bytes],
        options: UpstreamOptions,
        open_streams: set[EventStream],
    ) -> None:
        self._response = response
        self._data = data
        self._limits_s = (options.first_token_s, options.stall_s)
        self._open_streams = open_streams

    def __aiter__(self) -> EventStream:
        return self

    async def __anext__(self) -> bytes:
        if self not in self._open_streams:
            raise BackendDown("the backend was closed in mid-answer", "ask again")
        limit_s, self._limits_s = self._limits_s[0], (self._limits_s[1],) * 2
        whole = False
        try:
            with _typed_errors(limit_s):
                async with asyncio.timeout(limit_s):
                    data = await anext(self._data)
            whole = True
            return data
        finally:
            if not whole:  # ended, failed or cancelled: in each case the connection is done with
                await self.aclose()

    async def aclose(self) -> None:
        """Hang up, at any time and more than once."""
        self._open_streams.discard(self)
        await self._response.aclose()


def parse_body(data: bytes, kind: type[Row]) -> Row:
    """What the server sent, checked. Raises BackendDown when it is something else."""
    try:
        return kind.model_validate_json(data)
    except ValidationError as e:
        LOG.error("malformed answer from upstream: %d bytes, %d faults", len(data), e.error_count())
        raise BackendDown("the backend sent what cannot be read", _SEE_LOG) from None


def stream_error(error: Any) -> EngineError:
    """What an error in mid-stream means: a decline, a request that the server refuses after all, or
    a failure.
    """
    if (reason := declined_error(error)) is not None:
        return FilteredDecline(reason)
    LOG.error("upstream broke off%s", error_words(error))
    if isinstance(error, dict) and error.get("code") in _REFUSED:
        return EngineError(_REFUSES, _WHY)
    return BackendDown("the backend broke off in mid-answer", _SEE_LOG)


def _rejection_error(turned: RejectedRequest) -> EngineError:
    """What an answer other than 200 means. Of its body only known words are ever shown."""
    status, error = turned.status, turned.error
    if (reason := declined_error(error, status)) is not None:
        return FilteredDecline(reason)
    LOG.error("upstream answered HTTP %d%s", status, error_words(error))
    if status in _REFUSED:
        return EngineError(_REFUSES, _WHY)
    if status == httpx.codes.TOO_MANY_REQUESTS:
        return BackendBusy("the backend takes no more requests", "try again later")
    if status in (408, 504):
        return BackendTimeout(f"the backend gave up (HTTP {status})", _SEE_LOG)
    if status >= 500:
        return _Transient(
            f"the backend failed (HTTP {status})", _SEE_LOG, retry_after_s=turned.retry_after_s
        )
    return BackendDown(
        f"the backend turns us away (HTTP {status})", "check its address, key and model name"
    )


@contextmanager
def _typed_errors(limit_s: float) -> Iterator[None]:
    """httpx's errors and timeouts as ours."""
    try:
        yield
    except (TimeoutError, httpx.ConnectTimeout):
        raise BackendTimeout(
            f"the backend sent nothing for {limit_s:g} s", "try again later"
        ) from None
    except httpx.PoolTimeout:
        raise BackendBusy("all connections to the backend are in use", "try again later") from None
    except ResponseTooLarge as e:
        LOG.error("upstream sent too much: %s", e)
        raise BackendDown("the backend sent more than it may", _SEE_LOG) from None
    except StreamCutOff:
        raise BackendDown("the backend broke off in mid-answer", _SEE_LOG) from None
    except httpx.TransportError as e:  # its words may hold bytes of the answer
        LOG.error("upstream: %s", type(e).__name__)
        raise _Transient("the backend cannot be reached, or broke off", _SEE_LOG) from None
    except httpx.StreamError:  # closed by us while it was read
        raise BackendDown("the backend was closed in mid-answer", "ask again") from None
