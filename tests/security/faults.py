"""A server behind that misbehaves: what it may say to gate and gateways, byte for byte."""

from __future__ import annotations

import gzip
import json
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import httpx

Say = Callable[[bytes], None]  # sends bytes to whoever asked; raises OSError once they have hung up
Fault = Callable[[Say, str], None]  # how a request is answered, given what the user said in it
MOST_SENT = 48 << 20  # an endless fault ends here; it is judged long before
EVENT = {
    "model": "tiny",
    "choices": [{"index": 0, "delta": {"content": "fine"}, "finish_reason": None}],
}
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"


def head(status: str, *lines: str) -> bytes:
    """The head of an answer."""
    return "\r\n".join([f"HTTP/1.1 {status}", "connection: close", *lines, "", ""]).encode()


def whole(status: str, body: bytes, kind: str = "application/json", *lines: str) -> Fault:
    """A whole answer, the same for everybody."""
    return lambda say, said: say(
        head(status, f"content-type: {kind}", f"content-length: {len(body)}", *lines) + body
    )


def echoing(status: int, shape: Callable[[str], Any]) -> Fault:
    """An error that repeats what the user said."""

    def fault(say: Say, said: str) -> None:
        told = shape(said)
        body = told.encode() if isinstance(told, str) else json.dumps(told).encode()
        whole(f"{status} {said[:40]}", body, "application/json", f"x-said: {said[:40]}")(say, said)

    return fault


def streamed(*events: Any, done: bool = True) -> Fault:
    """A stream of events; texts and bytes are sent as they are. SAID in them is what the user
    said.
    """

    def fault(say: Say, said: str) -> None:
        say(STREAM)
        for event in events:
            data = (
                event
                if isinstance(event, bytes)
                else b"data: " + json.dumps(event).encode() + b"\n\n"
            )
            say(data.replace(b"SAID", said.encode()))
        if done:
            say(b"data: [DONE]\n\n")

    return fault


def endless(first: bytes, piece: bytes, pause_s: float = 0.0) -> Fault:
    """What never ends by itself."""

    def fault(say: Say, said: str) -> None:
        say(first)
        sent = 0
        while sent < MOST_SENT:
            say(piece)
            sent += len(piece)
            time.sleep(pause_s)

    return fault


def dripping(data: bytes, pause_s: float = 0.05) -> Fault:
    """A byte at a time."""

    def fault(say: Say, said: str) -> None:
        for at in range(len(data)):
            say(data[at : at + 1])
            time.sleep(pause_s)

    return fault


SHAPES: dict[str, Callable[[str], Any]] = {
    "in a message": lambda said: {
        "error": {"message": f"cannot do: {said}", "type": "x", "code": None}
    },
    "as a code": lambda said: {
        "error": {"message": "no", "code": said, "param": said, "type": said}
    },
    "as an error": lambda said: {"error": said, "detail": [{"input": said}], "message": said},
    "as text": lambda said: f"<html>{said}</html>",
}
STATUSES = (400, 401, 403, 404, 408, 413, 422, 429, 500, 503, 504, 529)


def errors() -> Iterator[tuple[str, Fault]]:
    """Echoing errors, redirects and odd statuses."""
    for status in STATUSES:
        for name, shape in SHAPES.items():
            yield f"HTTP {status} echoes {name}", echoing(status, shape)
    for status in (300, 301, 302, 303, 307, 308):
        for to in ("TRAP", "/v1/elsewhere", "//127.0.0.1:9/", "file:///etc/passwd"):
            yield f"redirect {status} to {to}", redirect(status, to)
    for status in (
        "204 No Content",
        "206 Partial Content",
        "304 Not Modified",
        "101 Switching Protocols",
        "999 What",
    ):
        yield f"status {status}", whole(status, b"")
    yield "only interim answers", endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n")
    yield (
        "early hints for ever",
        endless(b"", b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n", 0.01),
    )


def redirect(status: int, to: str) -> Fault:
    """To another address; TRAP: a server that listens."""

    def fault(say: Say, said: str) -> None:
        say(
            head(
                f"{status} Elsewhere",
                f"location: {to.replace('TRAP', TRAP.url)}",
                "content-length: 0",
            )
        )

    return fault


def wholes() -> Iterator[tuple[str, Fault]]:
    """Bodies that are no answer."""
    bodies = {
        "nothing": b"",
        "a byte": b"\0",
        "noise": bytes(range(256)) * 20,
        "HTML": b"<html>busy</html>",
        "null": b"null",
        "a list": b"[]",
        "a number": b"1" * 6000,
        "NaN": b'{"choices": NaN}',
        "a text": b'"fine"',
        "an empty object": b"{}",
        "half an object": b'{"model": "tiny", "choices": [{"mess',
        "deep": b"[" * 200_000,
        "deep objects": b'{"a":' * 100_000,
        "no choices": b'{"model": "tiny", "choices": null}',
        "a choice that is none": b'{"model": "tiny", "choices": [7]}',
        "half of a pair": b'{"model": "tiny", "choices": [{"message": {"content": "\\ud800"}}]}',
        "bad UTF-8": b'{"model": "tiny", "choices": [{"message": {"content": "\xff\xfe"}}]}',
        "another model": b'{"model": "other", "choices": [{"message": {"content": "fine"}}]}',
        "huge numbers": b'{"model": "tiny", "choices": [], "usage": {"prompt_tokens": 1e999}}',
    }
    for name, body in bodies.items():
        yield f"body: {name}", whole("200 OK", body)
    for kind in (
        "text/html",
        "image/png",
        "multipart/form-data",
        "application/x-gzip",
        "",
        "text/event-stream",
    ):
        yield f"content type {kind!r}", whole("200 OK", b"<html>busy</html>", kind)
    zeros = b"0" * (64 << 20)
    for name, packed in {
        "gzip": gzip.compress(zeros, 1),
        "deflate": zlib.compress(zeros, 1),
    }.items():
        yield (
            f"a bomb of {name}",
            whole("200 OK", packed, "application/json", f"content-encoding: {name}"),
        )
        yield (
            f"an error of {name}",
            whole("500 No", packed, "application/json", f"content-encoding: {name}"),
        )
        yield (
            f"a stream of {name}",
            whole("200 OK", packed, "text/event-stream", f"content-encoding: {name}"),
        )
    for name in ("br", "zstd", "gzip, gzip", "x-unknown", "gzip, identity"):
        yield (
            f"said to be {name}",
            whole("200 OK", b"\x1f\x8b" * 500, "application/json", f"content-encoding: {name}"),
        )


def wires() -> Iterator[tuple[str, Fault]]:
    """Broken HTTP, slow drips, half-closed sockets."""
    body = json.dumps({"model": "tiny", "choices": []}).encode()
    yield "hangs up at once", lambda say, said: None
    yield "says nothing", lambda say, said: time.sleep(3.0)
    yield "no HTTP", lambda say, said: say(b"SSH-2.0-OpenSSH_9.6\r\n")
    yield "HTTP/0.9", lambda say, said: say(b"fine")
    yield "a status without digits", lambda say, said: say(b"HTTP/1.1 OK OK\r\n\r\n")
    yield "half a head", lambda say, said: say(b"HTTP/1.1 200 OK\r\ncontent-type: applic")
    yield "a head and nothing", lambda say, said: say(head("200 OK", "content-length: 999"))
    yield "half a body", lambda say, said: say(head("200 OK", "content-length: 999") + body)
    yield "more than it says", lambda say, said: say(head("200 OK", "content-length: 5") + body)
    yield (
        "two lengths",
        lambda say, said: say(head("200 OK", "content-length: 5", "content-length: 7") + body),
    )
    yield "a negative length", lambda say, said: say(head("200 OK", "content-length: -1") + body)
    yield (
        "a chunk too short",
        lambda say, said: say(head("200 OK", "transfer-encoding: chunked") + b"ff\r\nabc"),
    )
    yield (
        "a chunk without size",
        lambda say, said: say(head("200 OK", "transfer-encoding: chunked") + b"zz\r\nabc"),
    )
    yield (
        "a huge chunk",
        lambda say, said: say(head("200 OK", "transfer-encoding: chunked") + b"f" * 17 + b"\r\n"),
    )
    yield (
        "many head lines",
        lambda say, said: say(head("200 OK", *(f"x-{n}: y" for n in range(9000)))),
    )
    yield "endless head", endless(b"HTTP/1.1 200 OK\r\n", b"x-a: " + b"y" * 1000 + b"\r\n")
    yield "an endless head line", endless(b"HTTP/1.1 200 OK\r\nx-a: ", b"y" * 65536)
    yield "an endless body", endless(head("200 OK", "content-type: application/json"), b" " * 65536)
    yield (
        "an endless error",
        endless(head("500 No", "content-type: application/json"), b" " * 65536),
    )
    yield "a dripping head", dripping(head("200 OK", "content-length: 999"))
    yield "a dripping body", dripping(b" " * 200)
    yield "a dripping error", one_after(head("503 No", "content-length: 200"), dripping(b" " * 100))
    yield "a dripping stream", one_after(STREAM, dripping(b"data: " + b" " * 100))


def one_after(first: bytes, then: Fault) -> Fault:
    """Bytes, and a fault behind them."""

    def fault(say: Say, said: str) -> None:
        say(first)
        then(say, said)

    return fault


def changed(**fields: Any) -> dict[str, Any]:
    """An event with other fields in its choice."""
    return {
        "model": "tiny",
        "choices": [{"index": 0, "delta": {}, "finish_reason": None, **fields}],
    }


def streams() -> Iterator[tuple[str, Fault]]:
    """Streams that break, never end, or hold what is no event."""
    error = {"error": {"message": "SAID", "code": "SAID", "type": "SAID"}}
    unlike: dict[str, Any] = {
        "a list": [],
        "null": None,
        "a number": 7,
        "no choices and no usage": {"model": "tiny"},
        "choices null": {"model": "tiny", "choices": None},
        "a choice null": {"model": "tiny", "choices": [None]},
        "delta null": changed(delta=None),
        "delta a text": changed(delta="fine"),
        "content a number": changed(delta={"content": 7}),
        "content an object": changed(delta={"content": {"a": "SAID"}}),
        "an unknown end": changed(finish_reason="SAID"),
        "an end that is a list": changed(finish_reason=["stop"]),
        "a call without a name": changed(
            delta={"tool_calls": [{"index": 0}]}, finish_reason="tool_calls"
        ),
        "a call far away": changed(
            delta={"tool_calls": [{"index": 10**9, "function": {"name": "x"}}]}
        ),
        "calls a number": changed(delta={"tool_calls": 7}),
        "another model": {**EVENT, "model": "SAID"},
        "no model": {"choices": EVENT["choices"]},
        "usage negative": {
            "model": "tiny",
            "choices": [],
            "usage": {"prompt_tokens": -5, "completion_tokens": -9},
        },
        "usage a text": {"model": "tiny", "choices": [], "usage": "SAID"},
        "an error": error,
        "an error's text": {"error": "SAID"},
        "an error's number": {"error": 400, "message": "SAID"},
    }
    for name, event in unlike.items():
        yield f"event: {name}", streamed(event, done=False)
        yield f"event behind a good one: {name}", streamed(EVENT, event, done=False)
    yield "nothing but the end", streamed()
    yield "nothing at all", streamed(done=False)
    yield "no end", streamed(EVENT, done=False)
    yield "no reason for the end", streamed(EVENT)
    yield "no JSON", streamed(b"data: {SAID\n\n")
    yield "no JSON behind a good one", streamed(EVENT, b"data: {SAID\n\n")
    yield "bad UTF-8", streamed(b"data: \xff\xfe\n\n")
    yield "NUL", streamed(b"data: \0\n\n")
    yield "not an event", streamed(b"SAID\n\n", done=False)
    yield "another field", streamed(b"event: error\nretry: 1\nid: SAID\n\n", done=False)
    yield "deep", streamed(b"data: " + b"[" * 100_000 + b"\n\n")
    event = b"data: " + json.dumps(EVENT).encode() + b"\n\n"
    yield "endless events", endless(STREAM, event * 100)
    yield (
        "endless events without text",
        endless(STREAM, b"data: " + json.dumps(changed()).encode() + b"\n\n"),
    )
    yield "endless comments", endless(STREAM, b": ping\n\n" * 1000)
    yield "comments now and then", endless(STREAM, b": ping\n\n", 0.05)
    yield "endless empty lines", endless(STREAM, b"\n" * 65536)
    yield "an endless line", endless(STREAM + b"data: ", b"x" * 65536)
    yield "endless data lines", endless(STREAM, b"data: x\n" * 5000)
    yield "one event, then silence", one_after(STREAM + event, lambda say, said: time.sleep(3.0))
    yield (
        "long text",
        streamed(changed(delta={"content": "x" * 900_000}), changed(finish_reason="stop")),
    )


@cache
def faults() -> dict[str, Fault]:
    """All of them, by name."""
    return dict(part for parts in (errors(), wholes(), wires(), streams()) for part in parts)


@dataclass
class Behind:
    """A server behind on a port of its own. fault: how it answers from now on, those requests that
    `hit` names.

    Others are passed on to `good`, a server that answers rightly; None: a model is listed, and
    nothing else is good.
    """

    good: str | None = None
    fault: Fault | None = None
    hit: Callable[[dict[str, Any]], bool] = lambda body: True
    asked: int = 0  # requests that the fault answered
    sent: int = 0  # bytes, of the fault now
    url: str = ""
    said: str = ""
    _socket: socket.socket = field(
        default_factory=lambda: socket.create_server(("127.0.0.1", 0), backlog=128)
    )

    def start(self) -> None:
        """Listen, in threads that end with the process or the socket."""
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/v1"
        threading.Thread(target=self._listen, daemon=True).start()

    def stop(self) -> None:
        """Listen no more."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _listen(self) -> None:
        with suppress(OSError):
            while True:
                line, _ = self._socket.accept()
                threading.Thread(target=self._serve, args=(line,), daemon=True).start()

    def _serve(self, line: socket.socket) -> None:
        with suppress(OSError, ValueError, httpx.HTTPError), line:
            first, body = _request(line)
            told = json.loads(body) if body else {}
            if self.fault is not None and body and self.hit(told):
                self.asked += 1
                self.fault(lambda data: self._say(line, data), self.said)
            else:
                line.sendall(self._passed_on(first, body))

    def _say(self, line: socket.socket, data: bytes) -> None:
        line.sendall(data)
        self.sent += len(data)

    def _passed_on(self, first: str, body: bytes) -> bytes:
        method, path, _ = first.split(" ", 2)
        if self.good is None:
            listed = json.dumps({"data": [{"id": "tiny"}]}).encode()
            return (
                head("200 OK", "content-type: application/json", f"content-length: {len(listed)}")
                + listed
            )
        url = self.good.removesuffix("/v1") + path
        got = httpx.request(
            method, url, content=body, headers={"content-type": "application/json"}, trust_env=False
        )
        kind = got.headers.get("content-type", "text/event-stream")
        top = head(
            f"{got.status_code} X", f"content-type: {kind}", f"content-length: {len(got.content)}"
        )
        return top + got.content


def _request(line: socket.socket) -> tuple[str, bytes]:
    """First line and body of one request."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += (piece := line.recv(65536))
        if not piece:
            raise OSError
    top, _, body = data.partition(b"\r\n\r\n")
    lines = top.decode("latin-1").split("\r\n")
    sizes = [
        int(row.partition(":")[2]) for row in lines if row.lower().startswith("content-length:")
    ]
    while sizes and len(body) < sizes[0]:
        body += line.recv(65536)
    return lines[0], body


TRAP = Behind()  # where redirects lead: nobody may ever ask it


@contextmanager
def behind(good: str | None = None) -> Iterator[Behind]:
    """A server behind for the length of the block."""
    made = Behind(good=good)
    made.start()
    try:
        yield made
    finally:
        made.stop()
