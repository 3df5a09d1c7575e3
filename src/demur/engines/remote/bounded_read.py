"""Read an endpoint's response within limits: bodies by size, streams by size, line and event count.

1. A body that states its length is refused before it is read; any other while it is read.
2. A stream is cut into lines as its bytes arrive; only `data:` lines count as events.
3. Compressed responses are refused, since a few bytes could expand to any number.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx

MOST_BYTES = 4 * 2**20
IDENTITY = {"accept-encoding": "identity"}
_ANSWERS = (b'"choices"', b'"error"')  # a completion or an error has one of these keys
_DONE = b"[DONE]"
# bytes that may follow the end: read, so that the connection can be used again
_AFTER_DONE = 65_536


class ResponseTooLarge(Exception):
    """An endpoint sent more than a limit allows, or a compressed response. The message names it."""


class StreamCutOff(Exception):
    """A stream ended without [DONE]."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadLimits:
    """Limits of one response, in bytes except for `events`."""

    # one JSON answer; for a stream, beyond what its tokens may take
    body: int = MOST_BYTES
    error: int = 64 * 2**10
    line: int = 2**20  # one event of a stream
    token: int = 4 * 2**10  # a streamed token with everything around it
    # events of a stream beyond four a token: each takes time to read, however short it is
    events: int = 2048


async def read_bounded(response: httpx.Response, most: int) -> bytes:
    """Read the body of an open response.

    Raises ResponseTooLarge beyond `most` bytes, before they are held in memory.
    """
    _require_plain(response)
    # Below 19 digits int() is cheap; a longer number is no length, and the loop below limits it.
    stated = response.headers.get("content-length", "")
    if stated.isdigit() and len(stated) < 19 and int(stated) > most:
        raise ResponseTooLarge(f"a body of {int(stated):,} bytes, at most {most:,} are read")
    held = bytearray()
    async for chunk in response.aiter_raw():
        held += chunk
        if len(held) > most:
            raise ResponseTooLarge(f"a body of more than {most:,} bytes")
    return bytes(held)


async def read_events(
    response: httpx.Response, bounds: ReadLimits, most_tokens: int
) -> AsyncIterator[bytes]:
    """Yield the payload of each server-sent event up to [DONE].

    most_tokens: that were asked for; the limits grow with it. A JSON body in place of a stream, as
    some servers send where a filter declines, counts as one event. Raises ResponseTooLarge on a
    line, a stream or a number of events above its limit, StreamCutOff without [DONE].
    """
    _require_plain(response)
    if response.headers.get("content-type", "").lower().startswith("application/json"):
        data = await read_bounded(response, bounds.body)
        if not any(name in data for name in _ANSWERS):
            raise StreamCutOff
        yield data
        return
    most = bounds.body + most_tokens * bounds.token
    # rest: the bytes of a line whose end has not arrived; total: bytes read so far
    rest, done, total, left_events = bytearray(), False, 0, bounds.events + 4 * most_tokens
    async for chunk in response.aiter_raw():
        total += len(chunk)
        # Once done, `most` is what had arrived by then: only little may follow the end.
        if total > most + (_AFTER_DONE if done else 0):
            raise ResponseTooLarge(
                f"a stream of more than {most:,} bytes for {most_tokens:,} tokens"
            )
        rest += chunk
        # Lines end at line feeds only, since a JSON string may hold any other separator raw. A
        # chunk without one is not split, which keeps a long line linear in time.
        *lines, left = rest.split(b"\n") if b"\n" in chunk else (rest,)
        rest = left
        if len(rest) > bounds.line or any(len(line) > bounds.line for line in lines):
            raise ResponseTooLarge(f"an event of more than {bounds.line:,} bytes")
        if done:
            rest.clear()
            continue
        for line in lines:
            if not line.startswith(b"data:"):  # a comment, a field of no use here, or a blank line
                continue
            data = bytes(line.removeprefix(b"data:").strip())
            if data == _DONE:  # read on to the end of the body: the connection is used again
                done, most = True, total
                break
            if not data:
                continue
            left_events -= 1
            if left_events < 0:
                raise ResponseTooLarge(
                    f"a stream of more than {bounds.events + 4 * most_tokens:,} events"
                )
            yield data
    if not done:
        raise StreamCutOff


def _require_plain(response: httpx.Response) -> None:
    """Raise ResponseTooLarge on a compressed answer."""
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise ResponseTooLarge("a compressed answer, which was not asked for")
