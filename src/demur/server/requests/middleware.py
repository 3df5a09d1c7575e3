"""ASGI middleware around every request: id, headers, time limit, log line, and bugs caught.

1. Each request gets a RequestContext; the routes find it with context_of.
2. A request that states two body sizes is refused unparsed.
3. The whole request has a time limit, and so has each piece of the answer that a client leaves
   unread.
4. Every answer carries the security headers and the request's id.
5. An exception that no route caught becomes a 500, and is logged without the request's text.
6. At the end the connection's budget is charged, metrics are counted and one log line is written.
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

OTHER_ROUTE = "other"  # metric label of unknown paths: a client could make up any number of them
CLOSE = (b"connection", b"close")
HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
]


class RequestMiddleware:
    """The outermost ASGI middleware. routes: the paths that may be metric labels."""

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
        route = scope["path"] if scope["path"] in self._routes else OTHER_ROUTE
        context = scope["demur.context"] = RequestContext(method=scope["method"], route=route)
        receiver = _Receiver(scope, receive)
        sender = _Sender(send, context, self._limits.write_s, receiver)
        self._metrics.request_started()
        try:
            # A proxy that goes by the other of two sizes would take the body's end for another
            # request (request smuggling).
            names = [name for name, _ in scope["headers"]]
            if b"transfer-encoding" in names and b"content-length" in names:
                context.code = "invalid_framing"
                two_sizes = ApiError(400, "The request states two sizes.", code=context.code)
                await sender.send_error(two_sizes)
                return
            async with asyncio.timeout(self._limits.request_s) as whole, context.exit_stack:
                await self._app(scope, receiver.receive, sender.send)
        except ClientGone:
            context.code = "client_gone"
        except TimeoutError:
            # else it was the sender's timeout: the client did not read its answer
            context.code = "timeout" if whole.expired() else "client_too_slow"
            if context.status is None:
                message = f"The request took more than {self._limits.request_s:g} s."
                await sender.send_error(ApiError(504, message, code="timeout"))
        # the outermost boundary: a bug is logged without the request's text, and answered
        except Exception as e:  # noqa: BLE001
            context.code = "server_error"
            log_crash(e, request_id=context.request_id)
            if context.status is None:
                await sender.send_error(internal_error())
        finally:
            if not sender.ended and context.code is None:
                context.code = "client_gone"
            budget = scope.get("state", {}).get("demur.budget")
            if budget is not None:  # there is none where the app is called without a socket
                authenticated = context.tenant is not None
                budget.charge_request(context.elapsed_s(), authenticated=authenticated)
            self._metrics.request_finished(context)
            log_event(logging.INFO, "request", **context.log_fields())


class _Receiver:
    """Tracks whether a request's body has been read to its end, or will be skipped."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._receive = receive
        self.is_read = not is_costly(scope["headers"])

    async def receive(self) -> Message:
        """Return the next ASGI message of the request."""
        message = await self._receive()
        self.is_read = self.is_read or not message.get("more_body", False)
        return message


class _Sender:
    """Sends an answer's messages, each within a time limit, and adds the common headers.

    write_s: for which a client may leave a message unread, before the request is given up: a client
    that does not read would hold its place for ever.
    """

    def __init__(
        self, send: Send, context: RequestContext, write_s: float, receiver: _Receiver
    ) -> None:
        self._send = send
        self._context = context
        self._write_s = write_s
        self._receiver = receiver
        self.ended = False  # the last message was sent

    async def send(self, message: Message) -> None:
        """Pass one message on. Raises TimeoutError if the client does not read it in time."""
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

    async def send_error(self, error: ApiError) -> None:
        """Send an error as the whole answer, and close the connection after it."""
        body = json.dumps(error.body()).encode()
        size = str(len(body)).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", size), CLOSE]
        await self.send({"type": "http.response.start", "status": error.status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})
