"""One request to an OpenAI-compatible endpoint: what both clients of such endpoints share.

`UpstreamClient` (upstream.py) is for a server: streams, typed errors, one attempt once something
is decided. `ChatClient` (chat_client.py) is for judges, guards and black boxes: many questions at a
time, a budget, retries over minutes. Both send by `send_request`:

1. The request is put into the endpoint's dialect: which of two token limits it knows, and which
   fields it does not take.
2. An answer other than 200 becomes `RejectedRequest`, with its bounded body, the wait that it asks
   for, and the dialect that would be worth another request.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from demur.engines.remote.bounded_read import IDENTITY, ReadLimits, ResponseTooLarge, read_bounded
from demur.engines.remote.completion import MalformedReply, parse_json
from demur.engines.remote.dialect import Dialect, adapted_dialect

CHAT = "chat/completions"
LONGEST_WAIT_S = 60.0  # of what an endpoint asks for in Retry-After; it is not believed beyond that


class RejectedRequest(Exception):
    """The endpoint answered something else than 200."""

    def __init__(self, response: httpx.Response, body: bytes) -> None:
        super().__init__(f"HTTP {response.status_code}")
        self.status = response.status_code
        self.retry_after_s = _retry_after_s(response)
        self.text = body.decode("utf-8", "replace")  # of which nothing is ever shown
        # the body as JSON; an empty text where it is none, or too long
        self.error: Any = _parsed(body)
        self.retry_dialect: Dialect | None = None  # in which the request is worth another try


@dataclass(frozen=True, kw_only=True, slots=True)
class EndpointRequest:
    """What is to be sent."""

    path: str
    body: Mapping[str, Any] | None = None  # in OpenAI's first words; None: a GET

    def translate(self, dialect: Dialect) -> Mapping[str, Any] | None:
        """The body as the endpoint takes it."""
        return (
            dialect.translate(self.body)
            if self.body is not None and self.path == CHAT
            else self.body
        )


def open_client(
    url: str,
    api_key: str | None,
    timeout: httpx.Timeout,
    limits: httpx.Limits,
    trusted: ssl.SSLContext | None = None,
) -> httpx.AsyncClient:
    """Connections to one endpoint. Prompts never take the way of an ambient proxy, and nothing
    comes compressed.

    url: up to and with /v1. timeout, limits: httpx's. trusted: made beforehand where many clients
    are opened, since reading the system's certificates takes longer than a request.
    """
    return httpx.AsyncClient(
        base_url=url.rstrip("/") + "/",
        headers=IDENTITY | ({"Authorization": f"Bearer {api_key}"} if api_key else {}),
        timeout=timeout,
        limits=limits,
        trust_env=False,
        verify=True if trusted is None else trusted,
    )


async def send_request(
    http: httpx.AsyncClient, request: EndpointRequest, dialect: Dialect, bounds: ReadLimits
) -> httpx.Response:
    """The open answer to a request that the endpoint has accepted; its reader closes it.

    Raises RejectedRequest, and httpx's errors where the endpoint cannot be reached or breaks off.
    """
    told = request.translate(dialect)
    made = http.build_request("GET" if told is None else "POST", request.path, json=told)
    response = await http.send(made, stream=True)
    if response.status_code == httpx.codes.OK:
        return response
    try:
        body = await read_bounded(response, bounds.error)
    except ResponseTooLarge:
        body = b""
    finally:
        await response.aclose()
    turned = RejectedRequest(response, body)
    if request.path == CHAT:
        turned.retry_dialect = adapted_dialect(
            dialect, turned.status, turned.error or turned.text, told or {}
        )
    raise turned


def _parsed(body: bytes) -> Any:
    try:
        return parse_json(body)
    except MalformedReply:
        return ""


def _retry_after_s(response: httpx.Response) -> float:
    """Seconds of a Retry-After header; 0 where there is none, or a date."""
    try:
        return min(max(float(response.headers.get("retry-after", 0.0)), 0.0), LONGEST_WAIT_S)
    except ValueError:
        return 0.0
