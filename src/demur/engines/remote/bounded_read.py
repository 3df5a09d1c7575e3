"""Bytes from an endpoint, bounded: a body is read up to a limit, a stream line by line, and no line
without an end.

Nothing is asked for compressed, and what comes compressed all the same is refused: a few bytes
could become any number.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx

MOST_BYTES = 4 * 2**20
IDENTITY = {"accept-encoding": "identity"}
_ANSWERS = (b'"choices"', b'"error"')  # one of them is in any answer that says something
_DONE = b"[DONE]"
# bytes that may follow the end: read, so that the connection can be used again
_AFTER_DONE = 65_536


class ResponseTooLarge(Exception):
    """An endpoint sent more than it may. The message says how much that is."""


class StreamCutOff(Exception):
    """A stream stopped without [DONE]."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadLimits:
    """The most that an endpoint may send; in bytes, but for events."""

    # one JSON answer; also the most of a stream beyond what its tokens may take
    body: int = MOST_BYTES
    error: int = 64 * 2**10
    line: int = 2**20  # one event of a stream
    token: int = 4 * 2**10  # a streamed token with everything around it
    # of a stream beyond four a token: each takes time to read, however little it says
    events: int = 2048


async def read_bounded(response: httpx.Response, most: int) -> bytes:
    """Read the body of an open response.

    Raises ResponseTooLarge beyond `most` bytes, before they are held in memory.
    """
    _require_plain(response)
    told = response.headers.get("content-length", "")
    if told.isdigit() and len(told) < 19 and int(told) > most:
        raise ResponseTooLarge(f"a body of {int(told):,} bytes, at most {most:,} are read")
    held = bytearray()
    async for chunk in response.aiter_raw():
        held += chunk
        if len(held) > most:
            raise ResponseTooLarge(f"a body of more than {most:,} bytes")
    return bytes(held)


async def read_events(
    response: httpx.Response, bounds: ReadLimits, most_tokens: int
) -> AsyncIterator[bytes]:
    """The payload of each event up to [DONE]. Lines end at line feeds only: JSON strings may hold
    any other separator.

    A server that answers with one JSON body instead, as some do where a filter declines, has sent
    one event. Raises ResponseTooLarge on a line or a stream that is too long, StreamCutOff where
    the end is missing.
    """
    _require_plain(response)
    if response.headers.get("content-type", "").lower().startswith("application/json"):
        data = await read_bounded(response, bounds.body)
        if not any(name in data for name in _ANSWERS):
            raise StreamCutOff
        yield data
        return
    most = bounds.body + most_tokens * bounds.token
    rest, done, total, left_events = bytearray(), False, 0, bounds.events + 4 * most_tokens
    async for chunk in response.aiter_raw():
        total += len(chunk)
        if total > most + (_AFTER_DONE if done else 0):
            raise ResponseTooLarge(
                f"a stream of more than {most:,} bytes for {most_tokens:,} tokens"
            )
        rest += chunk
        *lines, left = rest.split(b"\n") if b"\n" in chunk else (rest,)
        rest = left
        if len(rest) > bounds.line or any(len(line) > bounds.line for line in lines):
            raise ResponseTooLarge(f"an event of more than {bounds.line:,} bytes")
        if done:
            rest.clear()
            continue
        for line in lines:
            data = bytes(line.removeprefix(b"data:").strip()) if line.startswith(b"data:") else b""
            if data == _DONE:  # then read to the end, so that the connection can be used again
                done, most = True, total
                break
            left_events -= bool(data)
            if left_events < 0:
                raise ResponseTooLarge(
                    f"a stream of more than {bounds.events + 4 * most_tokens:,} events"
                )
            if data:
                yield data
    if not done:
        raise StreamCutOff


def _require_plain(response: httpx.Response) -> None:
    """Raise ResponseTooLarge on a compressed answer."""
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise ResponseTooLarge("a compressed answer, which was not asked for")
