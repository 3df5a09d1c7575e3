"""Attempts that need a bare connection, or several requests: framing of HTTP, and limits."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from tests.security.attempt import CALLER, CHAT, NARROW, Attempt, chat, user
from tests.security.site import LIMITS, Site

BODY = json.dumps(chat(user())).encode()
HOST = b"host: localhost\r\n"
AUTH = f"authorization: Bearer {CALLER}\r\n".encode()
JSON = b"content-type: application/json\r\n"
ALL = HOST + AUTH + JSON
POST = f"POST {CHAT} HTTP/1.1\r\n".encode()
# a second request inside the first one's body
HIDDEN = b"GET /v1/models HTTP/1.1\r\n" + HOST + AUTH + b"\r\n"
ENOUGH_S = 20.0


@dataclass(frozen=True, kw_only=True)
class Scene:
    """An attempt of more than one message. run: what it achieved; None: nothing."""

    kind: str
    name: str
    run: Callable[[Site], str | None]


@contextmanager
def line_to(site: Site) -> Iterator[socket.socket]:
    """A connection to the server."""
    place = urlsplit(site.server.url)
    with socket.create_connection((place.hostname, place.port), timeout=ENOUGH_S) as line:
        yield line


def until_closed(line: socket.socket) -> bytes:
    """All that comes. Raises TimeoutError if the server keeps the connection."""
    answer = b""
    try:
        while piece := line.recv(65536):
            answer += piece
    except (ConnectionResetError, BrokenPipeError):
        pass
    return answer


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


FRAMES: dict[str, bytes] = {
    "two sizes, chunked wins": POST
    + ALL
    + b"content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"
    + HIDDEN,
    "two sizes, length wins": POST
    + ALL
    + b"transfer-encoding: chunked\r\ncontent-length: %d\r\n\r\n" % (5 + len(HIDDEN))
    + b"0\r\n\r\n"
    + HIDDEN,
    "two lengths": POST
    + ALL
    + b"content-length: 2\r\ncontent-length: %d\r\n\r\n{}" % len(HIDDEN)
    + HIDDEN,
    "two lengths in one": POST + ALL + b"content-length: 2, 200\r\n\r\n{}" + HIDDEN,
    "a negative length": POST + ALL + b"content-length: -1\r\n\r\n" + HIDDEN,
    "a signed length": POST + ALL + b"content-length: +2\r\n\r\n{}" + HIDDEN,
    "a hexadecimal length": POST + ALL + b"content-length: 0x2\r\n\r\n{}" + HIDDEN,
    "a long length": POST + ALL + b"content-length: " + b"9" * 40 + b"\r\n\r\n{}",
    "an unknown coding": POST + ALL + b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "two codings": POST + ALL + b"transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n" + HIDDEN,
    "chunked twice": POST + ALL + b"transfer-encoding: chunked, chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "space before a colon": POST + ALL + b"transfer-encoding : chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "a vertical tab": POST + ALL + b"transfer-encoding: \x0bchunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "a chunk's bad size": POST
    + ALL
    + b"transfer-encoding: chunked\r\n\r\n-2\r\n{}\r\n0\r\n\r\n"
    + HIDDEN,
    "a chunk's huge size": POST
    + ALL
    + b"transfer-encoding: chunked\r\n\r\n"
    + b"f" * 40
    + b"\r\n{}",
    "a chunk's bad end": POST
    + ALL
    + b"transfer-encoding: chunked\r\n\r\n2\r\n{}xx0\r\n\r\n"
    + HIDDEN,
    "two hosts": POST + HOST + b"host: x\r\n" + AUTH + JSON + b"content-length: 2\r\n\r\n{}",
    "no host": POST + AUTH + JSON + b"content-length: 2\r\n\r\n{}",
    "a line break in a header": POST + HOST + b"x: a\rb\r\n" + AUTH + b"\r\n",
    "NUL in a header": POST + HOST + b"x: a\0b\r\n" + AUTH + b"\r\n",
    "a header without a name": POST + HOST + b": x\r\n" + AUTH + b"\r\n",
    "a long header": POST + HOST + b"x: " + b"y" * 40_000 + b"\r\n\r\n",
    "a thousand headers": POST
    + HOST
    + b"".join(b"x-%d: %s\r\n" % (n, b"y" * 30) for n in range(1000))
    + b"\r\n",
    "a long path": b"GET /" + b"x" * 40_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
    "no HTTP": b"nonsense\r\n\r\n",
    "TLS": bytes.fromhex("16030100c8010000c40303") + b"\0" * 200 + b"\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0" * 30,
    "HTTP/0.9": b"GET /v1/models\r\n\r\n",
    "an upgrade": b"GET /v1/models HTTP/1.1\r\n"
    + HOST
    + b"connection: upgrade, close\r\nupgrade: websocket\r\n\r\n",
    "an upgrade to HTTP/2": b"GET /v1/models HTTP/1.1\r\n"
    + HOST
    + b"connection: upgrade, close\r\nupgrade: h2c\r\n\r\n",
    "a whole address": b"GET http://localhost/v1/models HTTP/1.1\r\n"
    + HOST
    + b"connection: close\r\n\r\n",
    "a proxy's request": b"CONNECT localhost:22 HTTP/1.1\r\n" + HOST + b"connection: close\r\n\r\n",
    "a length for another request": POST
    + HOST
    + JSON
    + b"connection: close\r\ncontent-length: 0\r\n\r\n"
    + HIDDEN,
}


def framed(data: bytes) -> Callable[[Site], str | None]:
    """Send bytes that no client sends: every answer is an error, the connection is closed."""

    def run(site: Site) -> str | None:
        with line_to(site) as line:
            try:
                line.sendall(data)
                line.shutdown(socket.SHUT_WR)
            except OSError:  # the server has hung up already
                pass
            answer = until_closed(line)
        statuses = re.findall(rb"HTTP/1\.1 (\d\d\d)", answer)
        if any(not s.startswith(b"4") for s in statuses) or b'"object"' in answer:
            return f"answered {answer[:300]!r}"
        return None

    return run


def _status(answer: bytes) -> int:
    return int(answer[9:12]) if answer else 0


def body_that_never_comes(site: Site) -> str | None:
    with line_to(site) as line:
        line.sendall(POST + ALL + b"content-length: 100\r\n\r\n{")
        answer = until_closed(line)
    return None if _status(answer) == 408 else f"answered {answer!r}"


def body_that_drips(site: Site) -> str | None:
    with line_to(site) as line:
        line.sendall(POST + ALL + b"transfer-encoding: chunked\r\n\r\n")
        answer = _dripped(line, chunk(b" "))
    return None if _status(answer) == 408 else f"answered {answer!r}"


def body_without_end(site: Site) -> str | None:
    with line_to(site) as line:
        line.sendall(POST + ALL + b"transfer-encoding: chunked\r\n\r\n")
        answer = _dripped(line, chunk(b" " * 3000))
    return None if _status(answer) == 413 else f"answered {answer!r}"


def body_larger_than_it_says(site: Site) -> str | None:
    with line_to(site) as line:
        line.sendall(
            POST + ALL + b"connection: close\r\ncontent-length: %d\r\n\r\n" % LIMITS.body_bytes
        )
        line.sendall(b" " * (LIMITS.body_bytes * 3))
        answer = until_closed(line)
    return None if _status(answer) == 400 else f"answered {answer!r}"


def body_after_a_refusal(site: Site) -> str | None:
    with line_to(site) as line:
        line.sendall(POST + HOST + JSON + b"transfer-encoding: chunked\r\n\r\n")
        answer = _dripped(line, chunk(b" "))
    return None if _status(answer) == 401 else f"answered {answer!r}"


def silence(site: Site) -> str | None:
    with line_to(site) as line:
        answer = until_closed(line)
    return f"answered {answer!r}" if answer else None


def head_that_drips(site: Site) -> str | None:
    with line_to(site) as line:
        line.sendall(POST)
        answer = _dripped(line, b"x: y\r\n")
    return f"answered {answer!r}" if answer else None


def a_crowd_that_says_nothing(site: Site) -> str | None:
    place = urlsplit(site.server.url)
    lines = [
        socket.create_connection((place.hostname, place.port), timeout=ENOUGH_S) for _ in range(200)
    ]
    answered = site.send(Attempt(kind="", name="", body=chat(user()))).status
    kept = [line for line in lines if until_closed(line)]
    for line in lines:
        line.close()
    return None if answered == 200 and not kept else f"answered {answered}, kept {len(kept)}"


def a_place_held_open(site: Site) -> str | None:
    with line_to(site) as line:
        narrow = f"authorization: Bearer {NARROW}\r\n".encode()
        line.sendall(POST + HOST + narrow + JSON + b"content-length: 100\r\n\r\n{")
        time.sleep(0.2)
        statuses = [
            site.send(Attempt(kind="", name="", key=NARROW, body=chat(user()))).status
            for _ in range(2)
        ]
        until_closed(line)
    return None if statuses == [429, 429] else f"answered {statuses}"


def more_than_a_minutes_share(site: Site) -> str | None:
    bodies = [chat(user()), {}, chat(user(), n=999)] * 4  # those that are refused count as well
    statuses = [
        site.send(Attempt(kind="", name="", key=NARROW, body=body)).status for body in bodies
    ]
    passed = sum(status != 429 for status in statuses)
    return None if passed <= 6 and statuses[-3:] == [429] * 3 else f"answered {statuses}"


def many_in_one_go(site: Site) -> str | None:
    """Requests sent without waiting for answers are counted one by one."""
    one = (
        POST
        + HOST
        + f"authorization: Bearer {NARROW}\r\n".encode()
        + JSON
        + b"content-length: 2\r\n"
    )
    with line_to(site) as line:
        line.sendall((one + b"\r\n{}") * 9 + one + b"connection: close\r\n\r\n{}")
        answer = until_closed(line)
    statuses = re.findall(rb"HTTP/1\.1 (\d\d\d)", answer)
    return None if statuses == [b"429"] * 10 else f"answered {statuses}"


def _dripped(line: socket.socket, piece: bytes) -> bytes:
    """Send a piece now and then until the server hangs up, or ENOUGH_S; what it had said by
    then.
    """
    line.settimeout(0.1)
    answer, end = b"", time.monotonic() + ENOUGH_S
    while time.monotonic() < end:
        try:
            line.sendall(piece)
            got = line.recv(65536)
            if not got:
                return answer
            answer += got
        except TimeoutError:
            continue
        except OSError:
            return answer
    raise TimeoutError("the server keeps the connection")


SCENES = (
    *(Scene(kind="HTTP framing", name=name, run=framed(data)) for name, data in FRAMES.items()),
    *(
        Scene(kind="limits", name=run.__name__.replace("_", " "), run=run)
        for run in (
            body_that_never_comes,
            body_that_drips,
            body_without_end,
            body_larger_than_it_says,
            body_after_a_refusal,
            silence,
            head_that_drips,
            a_crowd_that_says_nothing,
            a_place_held_open,
            more_than_a_minutes_share,
            many_in_one_go,
        )
    ),
)
