"""Admission control: API keys, rate and concurrency limits, body size, turns for costly work.

1. A request is admitted by its key, or from this machine where there are no keys.
2. Admission counts it against its key's rate and concurrency, and against the server's concurrency.
3. Work that holds up the event loop is done one piece at a time per key, with rests between them.
4. Requests with a schema or tools hold a slot: a key has few, so its schemas delay only itself.
"""

from __future__ import annotations

import asyncio
import ipaddress
import math
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import monotonic, perf_counter
from typing import TypeVar

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request

from demur.core.access import Tenant
from demur.server.admission.budgets import REST_FACTOR
from demur.server.errors import RETRY_S, ApiError
from demur.server.registry import Access, AccessRegistry
from demur.server.requests.context import ClientGone
from demur.server.settings import RequestLimits, ServerSettings
from demur.store.policies.keys import KeyProblem, Tenants, authenticate

T = TypeVar("T")
MINUTE_S = 60.0
LOCAL = "local"  # name of the only tenant where there is no tenants file
SCHEMA_WAIT_S = 30.0  # for which a request waits while its key has as many schemas in use as it may


@dataclass(frozen=True, kw_only=True, slots=True)
class Caller:
    """The tenant and the key that a request was admitted with."""

    tenant: Tenant
    key: str | None  # the key's label; None without a tenants file


@dataclass(slots=True)
class KeyUsage:
    """What one key is using. schemas: how many it may have in use, see RequestLimits.schemas."""

    schemas: int
    # arrival times of the last minute's requests, with one more for each prompt scored beside them
    recent_s: deque[float] = field(default_factory=deque)
    in_flight: int = 0
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)  # of work that holds up all callers
    in_use: Counter[str] = field(default_factory=Counter)  # requests in flight, by schema digest
    slots: asyncio.Semaphore = field(init=False)  # one is taken for each digest in use

    def __post_init__(self) -> None:
        self.slots = asyncio.Semaphore(self.schemas)


class AdmissionControl:
    """Admits callers and counts what they use. Belongs to the event loop.

    clock_s: a monotonic clock in seconds.
    """

    def __init__(
        self,
        registry: AccessRegistry,
        settings: ServerSettings,
        clock_s: Callable[[], float] = monotonic,
    ) -> None:
        self._registry = registry
        self._settings = settings
        self._clock_s = clock_s
        self._usage: dict[tuple[str, str | None], KeyUsage] = {}  # by tenant and key label
        self._in_flight = 0

    @contextmanager
    def admitted(self, headers: Headers, access: Access) -> Iterator[Caller]:
        """Admit a caller for as long as the context lasts.

        Raises ApiError: 401 without a valid key, 403 for another host's name, 429 beyond the key's
        rate or concurrency, 503 if the server is full.
        """
        caller = self._caller(headers, access)
        who = (caller.tenant.name, caller.key)
        usage = self._usage.setdefault(who, KeyUsage(schemas=self._settings.limits.schemas))
        self._count_request(usage, caller.tenant)
        usage.in_flight += 1
        self._in_flight += 1
        try:
            yield caller
        finally:
            usage.in_flight -= 1
            self._in_flight -= 1

    def charge(self, caller: Caller, prompts: int) -> None:
        """Count prompts that are scored beside a request's conversation as requests of its minute.

        They may exceed the rate: otherwise a request that declares many could never be made. The
        next request waits until the excess has passed.
        """
        self._usage[caller.tenant.name, caller.key].recent_s.extend([self._clock_s()] * prompts)

    async def in_turn(self, caller: Caller, work: Callable[[], T]) -> T:
        """Return the result of work that blocks the event loop, one at a time for each key.

        The key's next such work waits for twice as long as this took: it gets at most a third of
        the loop's time.
        """
        turn = self._usage[caller.tenant.name, caller.key].turn
        await turn.acquire()
        began_s = perf_counter()
        try:
            return work()
        finally:
            # The lock is released by a timer, not here: the rest is part of the turn, also for
            # work that raised.
            rest_s = REST_FACTOR * (perf_counter() - began_s)
            asyncio.get_running_loop().call_later(rest_s, turn.release)

    @asynccontextmanager
    async def schema_slot(self, caller: Caller, digest: str) -> AsyncIterator[None]:
        """Hold one of the key's slots for a schema (or a set of tools) while the context lasts.

        Requests of a key with the same digest share a slot. Scoring and compiling a schema thereby
        waits for the key's other schemas, and not in competition with other keys. Raises ApiError
        429 after SCHEMA_WAIT_S.
        """
        usage = self._usage[caller.tenant.name, caller.key]
        if not usage.in_use[digest]:
            try:
                async with asyncio.timeout(SCHEMA_WAIT_S):
                    await usage.slots.acquire()
            except TimeoutError:
                message = (
                    f"Rate limit: {usage.schemas} different schemas or sets of tools at a time."
                )
                raise ApiError(
                    429, message, code="concurrency_limit_exceeded", retry_s=RETRY_S
                ) from None
            # While this one waited, another request may have taken a slot for the same digest.
            if usage.in_use[digest]:
                usage.slots.release()
        usage.in_use[digest] += 1
        try:
            yield
        finally:
            usage.in_use[digest] -= 1
            # the last request with this digest gives the slot back
            if not usage.in_use[digest]:
                del usage.in_use[digest]
                usage.slots.release()

    def _caller(self, headers: Headers, access: Access) -> Caller:
        """Return who is asking: the owner of the key, or the local tenant where there are none."""
        if access.tenants is not None:
            return _with_key(headers, access.tenants)
        require_local_host(headers)
        others = sorted(set(access.policies.policies) - {self._registry.default_policy})
        tenant = Tenant(
            name=LOCAL,
            policies=(self._registry.default_policy, *others),
            may_override=True,
            sees_scores=True,
            requests_per_minute=1_000_000,
            concurrent=self._settings.limits.in_flight,
        )
        return Caller(tenant=tenant, key=None)

    def _count_request(self, usage: KeyUsage, tenant: Tenant) -> None:
        """Count a request. Raises ApiError, counting nothing, beyond the key's or server's limits.

        The rate is a sliding window: the times of the last minute, oldest first.
        """
        now_s = self._clock_s()
        while usage.recent_s and usage.recent_s[0] <= now_s - MINUTE_S:
            usage.recent_s.popleft()
        if len(usage.recent_s) >= tenant.requests_per_minute:
            # until so many of the window's times are over that one more request fits
            wait_s = math.ceil(usage.recent_s[-tenant.requests_per_minute] + MINUTE_S - now_s)
            message = f"Rate limit: {tenant.requests_per_minute} requests per minute."
            raise ApiError(429, message, code="rate_limit_exceeded", retry_s=wait_s)
        if usage.in_flight >= tenant.concurrent:
            message = f"Rate limit: {tenant.concurrent} requests at a time."
            raise ApiError(429, message, code="concurrency_limit_exceeded", retry_s=RETRY_S)
        if self._in_flight >= self._settings.limits.in_flight:
            raise ApiError(503, "The server is full.", code="overloaded", retry_s=RETRY_S)
        usage.recent_s.append(now_s)


async def read_body(request: Request, limits: RequestLimits) -> bytes:
    """Read a request's whole body, within the limits of size and time.

    Raises ApiError 415 for another type than JSON, 413 if it is too large, 408 if it is late, and
    ClientGone if the client disconnects.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        # Also keeps web pages out: a browser sends this type to another site only after a CORS
        # preflight, which this server does not answer.
        raise ApiError(
            415,
            "The body must be JSON: content-type application/json.",
            code="unsupported_media_type",
        )
    size, pieces = 0, []
    try:
        async with asyncio.timeout(limits.body_s):
            async for piece in request.stream():
                size += len(piece)
                if size > limits.body_bytes:
                    message = f"The body is larger than {limits.body_bytes} bytes."
                    raise ApiError(413, message, code="request_too_large")
                pieces.append(piece)
    except TimeoutError:
        raise ApiError(408, "The body did not arrive in time.", code="request_timeout") from None
    except ClientDisconnect:
        raise ClientGone from None
    return b"".join(pieces)


def require_local_host(headers: Headers) -> None:
    """Raise ApiError 403 unless the Host header is this machine's loopback name or address."""
    if not _is_local_host(headers.get("host", "")):
        # DNS rebinding: a web page can point a name of its own at this machine; its requests then
        # carry that name.
        raise ApiError(
            403, "Without keys this server answers to localhost only.", code="wrong_host"
        )


def _with_key(headers: Headers, tenants: Tenants) -> Caller:
    """Return the owner of the request's API key. Raises ApiError 401 if it has no valid one."""
    stated = headers.getlist("authorization")
    # Several headers count as none: a proxy may have checked another one than we would.
    scheme, _, presented = (stated[0] if len(stated) == 1 else "").partition(" ")
    key = authenticate(
        tenants.keys, presented.strip() if scheme.lower() == "bearer" else None, datetime.now(UTC)
    )
    if not isinstance(key, KeyProblem):
        return Caller(tenant=key.tenant, key=key.label)
    messages = {
        "missing": "You didn't provide an API key. Send it as: Authorization: Bearer YOUR_KEY.",
        "unknown": "Incorrect API key provided.",
        "expired": "This API key has expired. Ask the operator for a new one.",
    }
    code = "expired_api_key" if key.reason == "expired" else "invalid_api_key"
    raise ApiError(401, messages[key.reason], code=code)


def _is_local_host(host: str) -> bool:
    """Whether a Host header names this machine by its loopback name or address."""
    # an IPv6 address stands in brackets; what follows a name's or an IPv4 address's colon is a port
    name = host.rpartition("]")[0].lstrip("[") if host.startswith("[") else host.partition(":")[0]
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name.lower() == "localhost"
