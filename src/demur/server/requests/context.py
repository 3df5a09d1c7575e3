"""What is known of one request while it is served: what it holds, and what the log will say of it.
Never its text.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, fields
from time import monotonic
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.types import Receive

T = TypeVar("T")


class ClientGone(Exception):
    """The client has hung up: nobody waits for the answer."""


@dataclass(kw_only=True, slots=True)
class RequestContext:
    """One request. `held` is let go when its answer has been sent, or cannot be any more."""

    method: str
    route: str
    request_id: str = field(default_factory=lambda: f"req_{secrets.token_hex(12)}")
    started_s: float = field(default_factory=monotonic)
    held: AsyncExitStack = field(default_factory=AsyncExitStack)
    status: int | None = None
    code: str | None = None  # of the error
    tenant: str | None = None
    key: str | None = None  # its label
    policy: str | None = None
    policy_hash: str | None = None
    overridden: bool | None = None
    synthetic: bool | None = None  # whether no monitor counts it
    decision: str | None = None
    category: str | None = None
    # the score decides nothing: refused by the policy's rule, or undecided
    doubt: bool | None = None
    # whether a cascade's front model decided; None where there is none
    by_front: bool | None = None
    stream: bool | None = None
    finish: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    # of prompts that were read to decide and not answered; prompt_tokens has them, too
    beside_tokens: int = 0
    decision_s: float | None = None  # from the request's arrival to the decision

    def elapsed_s(self) -> float:
        """Since the request came."""
        return monotonic() - self.started_s

    def record(self) -> dict[str, Any]:
        """What the log says."""
        left_out = ("started_s", "held", "beside_tokens")
        pairs = ((f.name, getattr(self, f.name)) for f in fields(self) if f.name not in left_out)
        return {name: value for name, value in pairs if value is not None} | {
            "total_s": round(self.elapsed_s(), 6)
        }


def context_of(request: Request) -> RequestContext:
    """The visit that demur.server.requests.middleware opened for a request."""
    context = request.scope["demur.context"]
    assert isinstance(context, RequestContext)
    return context


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of the work. Cancels it and raises Gone when the client hangs up first. The body
    has been read.
    """
    task, gone = asyncio.create_task(work), asyncio.create_task(_hung_up(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
