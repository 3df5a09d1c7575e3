"""Around every request: its id, the headers that every answer carries, one line in the log, and no
bug left open.
"""

from __future__ import annotations

import asyncio
import json
import logging

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from demur.server.admission.connection import is_costly
from demur.server.errors import ApiError, internal_error
from demur.server.monitoring.log import log_crash, log_event
from demur.server.monitoring.metrics import Metrics
from demur.server.requests.context import ClientGone, RequestContext
from demur.server.settings import RequestLimits

ELSEWHERE = "other"  # route of what is none of ours; their paths are not labels
CLOSE = (b"connection", b"close")
HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
]


class RequestMiddleware:
    """ASGI middleware, outermost. Opens the Visit that the routes find with visit_of."""

    def __init__(
        self, app: ASGIApp, metrics: Metrics, routes: frozenset[str], limits: RequestLimits
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
        context = scope["demur.context"] = RequestContext(method=scope["method"], route=route)
        receiver = _Receiver(scope, receive)
        sender = _Sender(send, context, self._limits.write_s, receiver)
        self._metrics.request_started()
        try:
            if _is_two_sizes(scope):
                context.code = "invalid_framing"
                await sender.answer(
                    ApiError(400, "The request states two sizes.", code=context.code)
                )
                return
            async with asyncio.timeout(self._limits.request_s) as whole, context.held:
                await self._app(scope, receiver.receive, sender.send)
        except ClientGone:
            context.code = "client_gone"
        except TimeoutError:
            context.code = "timeout" if whole.expired() else "client_too_slow"
            if context.status is None:
                told = f"The request took more than {self._limits.request_s:g} s."
                await sender.answer(ApiError(504, told, code="timeout"))
        # the outermost boundary: a bug is logged without what was said, and closed
        except Exception as e:  # noqa: BLE001
            context.code = "server_error"
            log_crash(e, request_id=context.request_id)
            if context.status is None:
                await sender.answer(internal_error())
        finally:
            if not sender.ended and context.code is None:
                context.code = "client_gone"
            budget = scope.get("state", {}).get("demur.budget")
            if budget is not None:  # there is none where the app is called without a socket
                budget.charge_request(context.elapsed_s(), authenticated=context.tenant is not None)
            self._metrics.request_finished(context)
            log_event(logging.INFO, "request", **context.record())


class _Receiver:
    """Knows whether a request's body has been read to its end, or will be skipped."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._receive = receive
        self.is_read = not is_costly(scope["headers"])

    async def receive(self) -> Message:
        """The next message."""
        message = await self._receive()
        self.is_read = self.is_read or not message.get("more_body", False)
        return message


class _Sender:
    """Sends an answer's messages, for a limited time each: who does not read does not keep a
    place.
    """

    def __init__(
        self, send: Send, context: RequestContext, write_s: float, receiver: _Receiver
    ) -> None:
        self._send = send
        self._context = context
        self._write_s = write_s
        self._receiver = receiver
        self.ended = False

    async def send(self, message: Message) -> None:
        """Pass one message on."""
        if message["type"] == "http.response.start":
            self._context.status = message["status"]
            headers = [
                *message.get("headers", ()),
                *HEADERS,
                (b"x-request-id", self._context.request_id.encode()),
            ]
            if not self._receiver.is_read and CLOSE not in headers:
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
