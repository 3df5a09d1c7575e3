"""Around every request: its id, the headers that every answer carries, one line in the log, and no
bug left open.
"""

from __future__ import annotations

import asyncio
import json
import logging

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from demur.server.admission.connection import is_costly
from demur.server.errors import ApiError, our_bug
from demur.server.monitoring.log import crash, event
from demur.server.monitoring.metrics import Metrics
from demur.server.requests.visit import Gone, Visit
from demur.server.settings import Limits

ELSEWHERE = "other"  # route of what is none of ours; their paths are not labels
CLOSE = (b"connection", b"close")
HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
]


class Envelope:
    """ASGI middleware, outermost. Opens the Visit that the routes find with visit_of."""

    def __init__(
        self, app: ASGIApp, metrics: Metrics, routes: frozenset[str], limits: Limits
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._routes = routes
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request. Lifespan messages pass through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        route = scope["path"] if scope["path"] in self._routes else ELSEWHERE
        visit = scope["demur.visit"] = Visit(method=scope["method"], route=route)
        inlet = _Inlet(scope, receive)
        outlet = _Outlet(send, visit, self._limits.write_s, inlet)
        self._metrics.arrived()
        try:
            if _is_two_sizes(scope):
                visit.code = "invalid_framing"
                await outlet.answer(ApiError(400, "The request states two sizes.", code=visit.code))
                return
            async with asyncio.timeout(self._limits.request_s) as whole, visit.held:
                await self._app(scope, inlet.receive, outlet.send)
        except Gone:
            visit.code = "client_gone"
        except TimeoutError:
            visit.code = "timeout" if whole.expired() else "client_too_slow"
            if visit.status is None:
                told = f"The request took more than {self._limits.request_s:g} s."
                await outlet.answer(ApiError(504, told, code="timeout"))
        # the outermost boundary: a bug is logged without what was said, and closed
        except Exception as e:  # noqa: BLE001
            visit.code = "server_error"
            crash(e, request_id=visit.request_id)
            if visit.status is None:
                await outlet.answer(our_bug())
        finally:
            if not outlet.ended and visit.code is None:
                visit.code = "client_gone"
            guest = scope.get("state", {}).get("demur.guest")
            if guest is not None:  # there is none where the app is called without a socket
                guest.answered(visit.elapsed_s(), let_in=visit.tenant is not None)
            self._metrics.left(visit)
            event(logging.INFO, "request", **visit.record())


class _Inlet:
    """Knows whether a request's body has been read to its end, or will be skipped."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._receive = receive
        self.is_read = not is_costly(scope["headers"])

    async def receive(self) -> Message:
        """The next message."""
        message = await self._receive()
        self.is_read = self.is_read or not message.get("more_body", False)
        return message


class _Outlet:
    """Sends an answer's messages, for a limited time each: who does not read does not keep a
    place.
    """

    def __init__(self, send: Send, visit: Visit, write_s: float, inlet: _Inlet) -> None:
        self._send = send
        self._visit = visit
        self._write_s = write_s
        self._inlet = inlet
        self.ended = False

    async def send(self, message: Message) -> None:
        """Pass one message on."""
        if message["type"] == "http.response.start":
            self._visit.status = message["status"]
            headers = [
                *message.get("headers", ()),
                *HEADERS,
                (b"x-request-id", self._visit.request_id.encode()),
            ]
            if not self._inlet.is_read and CLOSE not in headers:
                # demur.server.admission.connection does not read on to find the next request
                headers.append(CLOSE)
            message = {**message, "headers": headers}
        async with asyncio.timeout(self._write_s):
            await self._send(message)
        self.ended = message["type"] == "http.response.body" and not message.get("more_body", False)

    async def answer(self, error: ApiError) -> None:
        """Answer with an error, and nothing more on this connection."""
        body = json.dumps(error.body()).encode()
        size = str(len(body)).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", size), CLOSE]
        await self.send({"type": "http.response.start", "status": error.status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})


def _is_two_sizes(scope: Scope) -> bool:
    """Whether a body is sized twice: a proxy that goes by the other size would take its end for
    another request.
    """
    names = [name for name, _ in scope["headers"]]
    return b"transfer-encoding" in names and b"content-length" in names
