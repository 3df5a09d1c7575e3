"""The request context: what is known of one request while it is served, and what it holds.

The middleware opens it, routes fill it in, metrics and the log read it at the end. It never holds
text of the conversation.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, fields
from time import monotonic
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.types import Receive

T = TypeVar("T")
_NOT_LOGGED = ("started_s", "exit_stack", "beside_tokens", "session", "languages")


class ClientGone(Exception):
    """The client has disconnected before its answer was complete."""


@dataclass(kw_only=True, slots=True)
class RequestContext:
    """One request's log fields and resources; None where a field does not apply or is not known."""

    method: str
    route: str
    request_id: str = field(default_factory=lambda: f"req_{secrets.token_hex(12)}")
    started_s: float = field(default_factory=monotonic)
    # closed when the answer has been sent, or cannot be any more
    exit_stack: AsyncExitStack = field(default_factory=AsyncExitStack)
    status: int | None = None
    code: str | None = None  # of the error
    tenant: str | None = None  # set once the caller's key was accepted
    key: str | None = None  # its label
    policy: str | None = None
    policy_hash: str | None = None
    languages: Sequence[str] = ()  # that the caller prefers, for a text of the operator's
    session: str | None = None  # key of the session that the client names: a digest
    overridden: bool | None = None
    synthetic: bool | None = None  # whether no monitor counts it
    decision: str | None = None
    category: str | None = None  # refused or deferred with
    on_defer: str | None = None  # ask or escalate, where it is deferred
    # the score decides nothing: refused by the policy's rule, or undecided
    doubt: bool | None = None
    # whether a cascade's front model decided; None where there is none
    by_front: bool | None = None
    stream: bool | None = None
    finish: str | None = None
    # the first choice that a monitor stopped: with which category, behind how many tokens of its
    # answer, and how many of these had been sent
    stopped: str | None = None
    stop_position: int | None = None
    leaked: int | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    # of prompts that were read to decide and not answered; prompt_tokens has them, too
    beside_tokens: int = 0
    decision_s: float | None = None  # from the request's arrival to the decision

    def elapsed_s(self) -> float:
        """Return the seconds since the request arrived."""
        return monotonic() - self.started_s

    def log_fields(self) -> dict[str, Any]:
        """Return the fields of the request's log line; those that are None are left out."""
        pairs = ((f.name, getattr(self, f.name)) for f in fields(self) if f.name not in _NOT_LOGGED)
        return {name: value for name, value in pairs if value is not None} | {
            "total_s": round(self.elapsed_s(), 6)
        }


def context_of(request: Request) -> RequestContext:
    """Return the context that demur.server.requests.middleware opened for a request."""
    context = request.scope["demur.context"]
    assert isinstance(context, RequestContext)
    return context


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Await work unless the client disconnects first; then cancel it and raise ClientGone.

    The request's body has to be read before: `receive` then only yields the disconnect.
    """

    async def disconnected() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    task, disconnect = asyncio.create_task(work), asyncio.create_task(disconnected())
    try:
        await asyncio.wait({task, disconnect}, return_when=asyncio.FIRST_COMPLETED)
        # work that ended in the same moment still counts
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        task.cancel()
        disconnect.cancel()
        await asyncio.gather(task, disconnect, return_exceptions=True)
