"""Send one request to an OpenAI-compatible endpoint, for both clients of such endpoints.

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
LONGEST_WAIT_S = 60.0  # cap on Retry-After, and on the pause between two tries


class RejectedRequest(Exception):
    """The endpoint answered with a status other than 200."""

    def __init__(self, response: httpx.Response, body: bytes) -> None:
        super().__init__(f"HTTP {response.status_code}")
        self.status = response.status_code
        # seconds of a Retry-After header; 0 without one, or where it holds a date
        try:
            asked_s = float(response.headers.get("retry-after", 0.0))
        except ValueError:
            asked_s = 0.0
        self.retry_after_s = min(max(asked_s, 0.0), LONGEST_WAIT_S)
        self.text = body.decode("utf-8", "replace")  # never shown: it may repeat a prompt
        # the parsed body; an empty text where it is not JSON, or too long
        try:
            self.error: Any = parse_json(body)
        except MalformedReply:
            self.error = ""
        self.retry_dialect: Dialect | None = None  # in which the request is worth a retry


@dataclass(frozen=True, kw_only=True, slots=True)
class EndpointRequest:
    """A path and a body to send."""

    path: str
    body: Mapping[str, Any] | None = None  # written with `max_tokens`; None: a GET


def open_client(
    url: str,
    api_key: str | None,
    timeout: httpx.Timeout,
    limits: httpx.Limits,
    trusted: ssl.SSLContext | None = None,
) -> httpx.AsyncClient:
    """An HTTP client of one endpoint that asks for uncompressed responses.

    Proxies of the environment are ignored: prompts go to the endpoint that was named and nowhere
    else. url: up to and with /v1. timeout, limits: httpx's. trusted: made beforehand where many
    clients are opened, since reading the system's certificates takes longer than a request.
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
    """Send a request; return the response, its body unread, once the status is 200.

    The caller closes the response. Raises RejectedRequest on another status, and httpx's errors
    where the endpoint cannot be reached or closes the connection.
    """
    body = request.body
    if body is not None and request.path == CHAT:
        body = dialect.translate(body)
    prepared = http.build_request("GET" if body is None else "POST", request.path, json=body)
    response = await http.send(prepared, stream=True)
    if response.status_code == httpx.codes.OK:
        return response
    try:
        error = await read_bounded(response, bounds.error)
    except ResponseTooLarge:
        error = b""  # the status alone says enough
    finally:
        await response.aclose()
    rejected = RejectedRequest(response, error)
    if request.path == CHAT:
        rejected.retry_dialect = adapted_dialect(
            dialect, rejected.status, rejected.error or rejected.text, body or {}
        )
    raise rejected
