"""The client of an upstream server that speaks OpenAI's protocol: one answer or one event stream at
a time, every failure a typed error.

1. `UpstreamClient.post` retries transient failures: the call decides nothing yet.
2. `UpstreamClient.stream` opens an `EventStream`; after a decision it is never retried, since the
   upstream may have begun to write.
3. Errors hold only what a caller may learn; the log says more. The upstream's own words stand in
   neither: an error of the upstream may repeat a prompt.
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
_MOST_DIALECTS = 6  # tried for one request, until the endpoint takes its fields
# how long an idle connection is kept: servers close theirs after five seconds, perhaps just as a
# request goes out on it
_IDLE_S = 2.0
_INVALID_STATUS = (400, 413, 422)
_INVALID = "the backend refuses the request"
_INVALID_HINT = "it is too long, or asks for a schema that cannot be followed"

Row = TypeVar("Row", bound=BaseModel)
T = TypeVar("T")


class _Transient(BackendDown):
    """A transient failure: worth a retry as long as nothing has been decided."""

    def __init__(self, message: str, hint: str, *, retry_after_s: float = 0.0) -> None:
        super().__init__(message, hint)
        self.retry_after_s = retry_after_s  # the wait that the backend asks for


@dataclass(frozen=True, kw_only=True, slots=True)
class UpstreamOptions:
    """The upstream's address, its time limits and its size limits.

    Raises ConfigError on a dialect or a limit that is invalid.
    """

    url: str  # up to and including /v1, as OpenAI's own client takes it
    api_key: str | None = field(default=None, repr=False)
    connect_s: float = 5.0  # to connect; also to wait for one of the connections
    decide_s: float = 30.0  # a whole one-token call: its queueing upstream and all tries
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
    """An HTTP client with a pool of connections to one upstream server.

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
            # No read timeout here: EventStream has one for the first token and one between events.
            httpx.Timeout(None, connect=options.connect_s, pool=options.connect_s),
            httpx.Limits(
                max_connections=options.connections,
                max_keepalive_connections=options.connections,
                keepalive_expiry=_IDLE_S,
            ),
        )

    async def get(self, path: str, kind: type[Row]) -> Row:
        """Fetch a small document and validate it as `kind`."""
        with _typed_errors(self._options.decide_s):
            async with asyncio.timeout(self._options.decide_s):
                return parse_body(await self._send_and_read(EndpointRequest(path=path)), kind)

    async def post(self, path: str, body: dict[str, Any], read: Callable[[bytes], T]) -> T:
        """Send a request that changes nothing upstream; transient failures are retried.

        read: parses the body. Raises FilteredDecline where the server's filter declines the
        request.
        """
        with _typed_errors(self._options.decide_s):
            async with asyncio.timeout(self._options.decide_s):
                return read(
                    await self._retry(
                        partial(self._send_and_read, EndpointRequest(path=path, body=body))
                    )
                )

    async def stream(
        self, path: str, body: dict[str, Any], *, undecided: bool = False
    ) -> EventStream:
        """Open the event stream of an answer; returns once the server has accepted the request.

        undecided: nothing was decided yet, so transient failures are retried; else they never are.
        Raises FilteredDecline where the server's filter declines the request.
        """
        begin = partial(self._send, EndpointRequest(path=path, body=body))
        with _typed_errors(self._options.first_token_s):
            async with asyncio.timeout(self._options.first_token_s):
                response = await (self._retry(begin) if undecided else begin())
        data = read_events(response, self._bounds, int(body.get(LIMIT, 0)))
        events = EventStream(response, data, self._options, self._streams)
        self._streams.add(events)
        return events

    async def close(self) -> None:
        """Close all streams and connections."""
        # a copy: a stream leaves the set when it closes
        for events in list(self._streams):
            await events.aclose()
        await self._client.aclose()

    async def _retry(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Await an attempt, again after transient failures, with a pause that grows linearly."""
        for tried in range(1, self._options.tries):
            try:
                return await attempt()
            except _Transient as e:
                # The caller's own time limit would end before the next try.
                if e.retry_after_s > self._options.decide_s:
                    raise
                await asyncio.sleep(max(self._options.backoff_s * tried, e.retry_after_s))
        return await attempt()

    async def _send_and_read(self, request: EndpointRequest) -> bytes:
        response = await self._send(request)
        try:
            with _typed_errors(self._options.decide_s):
                return await read_bounded(response, self._bounds.body)
        finally:
            await response.aclose()

    async def _send(self, request: EndpointRequest) -> httpx.Response:
        """The response to a request, its body unread, in the first dialect that the server takes.

        Raises the errors of `_rejection_error`.
        """
        if self._client.is_closed:
            raise BackendDown("the backend was closed", "start the server again")
        dialect = self._dialect
        for left in reversed(range(_MOST_DIALECTS)):
            try:
                with _typed_errors(self._options.first_token_s):
                    response = await send_request(self._client, request, dialect, self._bounds)
            except RejectedRequest as e:
                if e.retry_dialect is None or not left:
                    raise _rejection_error(e) from None
                dialect = e.retry_dialect
            else:
                self._dialect = dialect  # for later requests, now that it has worked
                return response
        raise AssertionError("unreachable: the last try returns or raises")


class EventStream:
    """The payloads of a stream of server-sent events, up to [DONE].

    Closing it early makes the upstream stop writing. Raises BackendTimeout when no event arrives in
    time, BackendDown when the stream ends without [DONE].
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
        # The first event waits for queueing and prefill; later ones only for the token before them.
        limit_s, self._limits_s = self._limits_s[0], (self._limits_s[1],) * 2
        whole = False
        try:
            with _typed_errors(limit_s):
                async with asyncio.timeout(limit_s):
                    data = await anext(self._data)
            whole = True
            return data
        finally:
            if not whole:  # ended, failed or cancelled: no more is read in any of these cases
                await self.aclose()

    async def aclose(self) -> None:
        """Close the connection; may be called at any time and more than once."""
        self._open_streams.discard(self)
        await self._response.aclose()


def parse_body(data: bytes, kind: type[Row]) -> Row:
    """Validate a body as `kind`. Raises BackendDown where it is invalid."""
    try:
        return kind.model_validate_json(data)
    except ValidationError as e:
        LOG.error("malformed answer from upstream: %d bytes, %d faults", len(data), e.error_count())
        raise BackendDown("the backend sent what cannot be read", _SEE_LOG) from None


def stream_error(error: Any) -> EngineError:
    """The error of ours for an error in mid-stream.

    FilteredDecline for a decline, EngineError for a request that the server refuses after all,
    BackendDown for any other failure.
    """
    if (reason := declined_error(error)) is not None:
        return FilteredDecline(reason)
    LOG.error("upstream broke off%s", error_words(error))
    if isinstance(error, dict) and error.get("code") in _INVALID_STATUS:
        return EngineError(_INVALID, _INVALID_HINT)
    return BackendDown("the backend broke off in mid-answer", _SEE_LOG)


def _rejection_error(rejected: RejectedRequest) -> EngineError:
    """The error of ours for a status other than 200. Only known words of its body are shown."""
    status, error = rejected.status, rejected.error
    if (reason := declined_error(error, status)) is not None:
        return FilteredDecline(reason)
    LOG.error("upstream answered HTTP %d%s", status, error_words(error))
    if status in _INVALID_STATUS:
        return EngineError(_INVALID, _INVALID_HINT)
    if status == httpx.codes.TOO_MANY_REQUESTS:
        return BackendBusy("the backend takes no more requests", "try again later")
    if status in (408, 504):
        return BackendTimeout(f"the backend gave up (HTTP {status})", _SEE_LOG)
    if status >= 500:
        return _Transient(
            f"the backend failed (HTTP {status})", _SEE_LOG, retry_after_s=rejected.retry_after_s
        )
    return BackendDown(
        f"the backend turns us away (HTTP {status})", "check its address, key and model name"
    )


@contextmanager
def _typed_errors(limit_s: float) -> Iterator[None]:
    """Turn httpx's errors and timeouts into ours. limit_s: named in the message of a timeout."""
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
    except httpx.TransportError as e:  # its message may hold bytes of the answer: only its type
        LOG.error("upstream: %s", type(e).__name__)
        raise _Transient("the backend cannot be reached, or broke off", _SEE_LOG) from None
    except httpx.StreamError:  # closed by us while it was read
        raise BackendDown("the backend was closed in mid-answer", "ask again") from None
