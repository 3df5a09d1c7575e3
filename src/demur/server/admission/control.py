"""Who comes in: key, rate, concurrency, size of the body, turns of what costs much."""

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
LOCAL = "local"
SCHEMA_WAIT_S = 30.0  # for which a request waits while its key has as many schemas in use as it may


@dataclass(frozen=True, kw_only=True, slots=True)
class Caller:
    """Who asks."""

    tenant: Tenant
    key: str | None  # the key's label; None without a tenants file


@dataclass(slots=True)
class Meter:
    """What one key has used. schemas: see Limits.schemas."""

    schemas: int
    recent_s: deque[float] = field(
        default_factory=deque
    )  # when its requests of the last minute came, or what was read beside them
    inside: int = 0
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)  # of work that holds up all callers
    # by digest: requests that have this schema
    in_use: Counter[str] = field(default_factory=Counter)
    places: asyncio.Semaphore = field(init=False)  # one for each digest in use

    def __post_init__(self) -> None:
        self.places = asyncio.Semaphore(self.schemas)


class AdmissionControl:
    """Lets callers in and counts them."""

    def __init__(
        self,
        registry: AccessRegistry,
        settings: ServerSettings,
        clock_s: Callable[[], float] = monotonic,
    ) -> None:
        self._registry = registry
        self._settings = settings
        self._clock_s = clock_s
        self._meters: dict[tuple[str, str | None], Meter] = {}
        self._inside = 0

    @contextmanager
    def admitted(self, headers: Headers, access: Access) -> Iterator[Caller]:
        """Let a caller in for as long as the context lasts. Raises ApiError 401, 403, 429 or
        503.
        """
        caller = self._caller(headers, access)
        who = (caller.tenant.name, caller.key)
        meter = self._meters.setdefault(who, Meter(schemas=self._settings.limits.schemas))
        self._count(meter, caller.tenant)
        meter.inside += 1
        self._inside += 1
        try:
            yield caller
        finally:
            meter.inside -= 1
            self._inside -= 1

    def charge(self, caller: Caller, prompts: int) -> None:
        """Count what a request that is in has scored beside its conversation: each prompt as a
        request of the minute.

        It may take more than is left, or whoever declares much could never ask; the next request
        waits for that.
        """
        self._meters[caller.tenant.name, caller.key].recent_s.extend([self._clock_s()] * prompts)

    async def in_turn(self, caller: Caller, work: Callable[[], T]) -> T:
        """The result of work that holds up all callers, one at a time for each key.

        The key's next such work waits for twice as long as this took, so that it takes a third of
        the time at most.
        """
        turn = self._meters[caller.tenant.name, caller.key].turn
        await turn.acquire()
        began_s = perf_counter()
        try:
            return work()
        finally:
            rest_s = REST_FACTOR * (perf_counter() - began_s)
            asyncio.get_running_loop().call_later(rest_s, turn.release)

    @asynccontextmanager
    async def schema_place(self, caller: Caller, digest: str) -> AsyncIterator[None]:
        """Hold a place for a schema (or a set of tools): requests of a key with the same one share
        it.

        What a schema costs, scoring what it says and compiling it, so waits for the key's other
        schemas and not beside other callers. Raises ApiError 429 after SCHEMA_WAIT_S.
        """
        meter = self._meters[caller.tenant.name, caller.key]
        if not meter.in_use[digest]:
            try:
                async with asyncio.timeout(SCHEMA_WAIT_S):
                    await meter.places.acquire()
            except TimeoutError:
                message = (
                    f"Rate limit: {meter.schemas} different schemas or sets of tools at a time."
                )
                raise ApiError(
                    429, message, code="concurrency_limit_exceeded", retry_s=RETRY_S
                ) from None
            if meter.in_use[digest]:  # another request has got a place for the same one meanwhile
                meter.places.release()
        meter.in_use[digest] += 1
        try:
            yield
        finally:
            meter.in_use[digest] -= 1
            if not meter.in_use[digest]:
                del meter.in_use[digest]
                meter.places.release()

    def _caller(self, headers: Headers, access: Access) -> Caller:
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

    def _count(self, meter: Meter, tenant: Tenant) -> None:
        """Raise ApiError if the key, or all callers together, have all they may. A refused request
        is not counted.
        """
        now_s = self._clock_s()
        while meter.recent_s and meter.recent_s[0] <= now_s - MINUTE_S:
            meter.recent_s.popleft()
        if len(meter.recent_s) >= tenant.requests_per_minute:
            wait_s = math.ceil(meter.recent_s[-tenant.requests_per_minute] + MINUTE_S - now_s)
            message = f"Rate limit: {tenant.requests_per_minute} requests per minute."
            raise ApiError(429, message, code="rate_limit_exceeded", retry_s=wait_s)
        if meter.inside >= tenant.concurrent:
            message = f"Rate limit: {tenant.concurrent} requests at a time."
            raise ApiError(429, message, code="concurrency_limit_exceeded", retry_s=RETRY_S)
        if self._inside >= self._settings.limits.in_flight:
            raise ApiError(503, "The server is full.", code="overloaded", retry_s=RETRY_S)
        meter.recent_s.append(now_s)


async def read_body(request: Request, limits: RequestLimits) -> bytes:
    """The whole body, counted while it comes in. Raises ApiError 408, 413 or 415, Gone if the
    client hangs up.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        # Also keeps web pages out: a browser sends this type to another site only after asking it.
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
    """Raise ApiError 403 unless a keyless request calls this machine by its loopback name or
    address.
    """
    if not _is_local_host(headers.get("host", "")):
        # A web page can point a name of its own at this machine; its requests then carry that name.
        raise ApiError(
            403, "Without keys this server answers to localhost only.", code="wrong_host"
        )


def _with_key(headers: Headers, tenants: Tenants) -> Caller:
    stated = headers.getlist("authorization")
    # Of several a proxy may have checked another one than we would.
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
    name = host.rpartition("]")[0].lstrip("[") if host.startswith("[") else host.partition(":")[0]
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name.lower() == "localhost"
