"""The wire to a server that speaks OpenAI's protocol: an answer or a stream at a time, every failure a typed one.

What a caller may learn stands in the error; what only the operator may learn (the other side's own words) is logged.
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

from demur.core.errors import BackendBusy, BackendDown, BackendTimeout, EngineError

LOG = logging.getLogger(__name__)
_SEE_LOG = "the log of this server says more"
_DONE = b"[DONE]"
_IDLE_S = 2.0  # for which a connection is kept: servers hang up after five, perhaps just as we use it again
_REFUSED = (400, 413, 422)
_REFUSES, _WHY = "the backend refuses the request", "it is too long, or asks for a schema that cannot be followed"

Row = TypeVar("Row", bound=BaseModel)
T = TypeVar("T")


class _Passing(BackendDown):
    """A failure that may pass by itself: worth another try as long as nothing has been decided."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Link:
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


class Wire:
    """Connections to one server.

    Raises BackendDown, BackendTimeout and BackendBusy; EngineError where the server refuses the request itself.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._streams: set[Events] = set()
        self._client = httpx.AsyncClient(
            base_url=link.url.rstrip("/") + "/",
            headers={"Authorization": f"Bearer {link.api_key}"} if link.api_key else {},
            # Reading is timed by what the bytes mean, see Events. Prompts never take the way of an ambient proxy.
            timeout=httpx.Timeout(None, connect=link.connect_s, pool=link.connect_s),
            limits=httpx.Limits(
                max_connections=link.connections,
                max_keepalive_connections=link.connections,
                keepalive_expiry=_IDLE_S,
            ),
            trust_env=False,
        )

    async def get(self, path: str, kind: type[Row]) -> Row:
        """A small document."""
        with _typed(self._link.decide_s):
            async with asyncio.timeout(self._link.decide_s):
                return await self._read("GET", path, None, kind)

    async def ask(self, path: str, body: dict[str, Any], kind: type[Row]) -> Row:
        """The answer to a request that changes nothing over there: tried again when it fails in passing."""
        with _typed(self._link.decide_s):
            async with asyncio.timeout(self._link.decide_s):
                return await self._again(partial(self._read, "POST", path, body, kind))

    async def stream(self, path: str, body: dict[str, Any], *, undecided: bool = False) -> Events:
        """The events of an answer, once the server has accepted the request.

        undecided: nothing was decided yet, so what fails in passing is tried again; else it never is.
        """
        begin = partial(self._begin, path, body)
        with _typed(self._link.first_token_s):
            async with asyncio.timeout(self._link.first_token_s):
                response = await (self._again(begin) if undecided else begin())
        events = Events(response, self._link, self._streams)
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
        for tried in range(1, self._link.tries):
            try:
                return await attempt()
            except _Passing:
                await asyncio.sleep(self._link.backoff_s * tried)
        return await attempt()

    async def _begin(self, path: str, body: dict[str, Any]) -> httpx.Response:
        self._require_open()
        with _typed(self._link.first_token_s):
            response = await self._client.send(self._client.build_request("POST", path, json=body), stream=True)
            if response.status_code != httpx.codes.OK:
                await response.aread()
                _check(response)
        return response

    async def _read(self, method: str, path: str, body: dict[str, Any] | None, kind: type[Row]) -> Row:
        self._require_open()
        with _typed(self._link.decide_s):
            response = await self._client.request(method, path, json=body)
        _check(response)
        return parsed(response.content, kind)


class Events:
    """The data of a stream of server-sent events, up to [DONE]. Closing it early ends the work over there.

    Raises BackendTimeout when nothing comes for too long, BackendDown when the stream ends without [DONE].
    """

    def __init__(self, response: httpx.Response, link: Link, open_streams: set[Events]) -> None:
        self._response = response
        self._data = _data(response)
        self._limits_s = (link.first_token_s, link.stall_s)
        self._open_streams = open_streams

    def __aiter__(self) -> Events:
        return self

    async def __anext__(self) -> bytes:
        if self not in self._open_streams:
            raise BackendDown("the backend was closed in mid-answer", "ask again")
        limit_s, self._limits_s = self._limits_s[0], (self._limits_s[1],) * 2
        whole = False
        try:
            with _typed(limit_s):
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


def parsed(data: bytes, kind: type[Row]) -> Row:
    """What the server sent, checked. Raises BackendDown when it is something else."""
    try:
        return kind.model_validate_json(data)
    except ValidationError as e:
        LOG.error("malformed answer from upstream: %s in %.500r", e, data)
        raise BackendDown("the backend sent what cannot be read", _SEE_LOG) from None


def broken_off(error: Any) -> EngineError:
    """What an error in mid-stream means: a request that the server refuses after all, or an answer it cannot finish."""
    LOG.error("upstream broke off: %.500s", error)
    if isinstance(error, dict) and error.get("code") in _REFUSED:
        return EngineError(_REFUSES, _WHY)
    return BackendDown("the backend broke off in mid-answer", _SEE_LOG)


async def _data(response: httpx.Response) -> AsyncIterator[bytes]:
    """The payload of each event. Lines end at line feeds only: JSON strings may hold any other separator."""
    rest, done = b"", False
    async for chunk in response.aiter_bytes():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            data = line.removeprefix(b"data:").strip() if line.startswith(b"data:") else b""
            done = done or data == _DONE  # then read to the end, so that the connection can be used again
            if data and not done:
                yield data
    if not done:
        raise BackendDown("the backend broke off in mid-answer", _SEE_LOG)


def _check(response: httpx.Response) -> None:
    """Raise unless the server answered the request."""
    status = response.status_code
    if status == httpx.codes.OK:
        return
    LOG.error("upstream answered HTTP %d: %.500r", status, response.text)
    if status in _REFUSED:
        raise EngineError(_REFUSES, _WHY)
    if status == httpx.codes.TOO_MANY_REQUESTS:
        raise BackendBusy("the backend takes no more requests", "try again later")
    if status in (408, 504):
        raise BackendTimeout(f"the backend gave up (HTTP {status})", _SEE_LOG)
    if status >= 500:
        raise _Passing(f"the backend failed (HTTP {status})", _SEE_LOG)
    raise BackendDown(f"the backend turns us away (HTTP {status})", "check its address, key and model name")


@contextmanager
def _typed(limit_s: float) -> Iterator[None]:
    """httpx's errors and timeouts as ours."""
    try:
        yield
    except (TimeoutError, httpx.ConnectTimeout):
        raise BackendTimeout(f"the backend sent nothing for {limit_s:g} s", "try again later") from None
    except httpx.PoolTimeout:
        raise BackendBusy("all connections to the backend are in use", "try again later") from None
    except httpx.TransportError as e:
        LOG.error("upstream: %s: %s", type(e).__name__, e)
        raise _Passing("the backend cannot be reached, or broke off", _SEE_LOG) from None
    except httpx.StreamError:  # closed by us while it was read
        raise BackendDown("the backend was closed in mid-answer", "ask again") from None
