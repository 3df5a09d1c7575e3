"""What a connection costs before anybody has shown a key, and that ordinary clients do not
notice.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from contextlib import contextmanager
from urllib.parse import urlsplit

import httpx
import pytest

from demur.server.admission import connection
from demur.server.admission.connection import FREE_PIECES, MOST_HEADERS
from demur.server.requests import schema
from demur.server.requests.schema import MOST_STRINGS
from demur.server.settings import RequestLimits
from tests.server.live_server import (
    ANSWERED,
    KEY,
    folder_of,
    policy,
    request,
    serving,
    tenants_file,
)
from tests.waiting import wait_until

CHAT = "/v1/chat/completions"
HOST = b"host: localhost\r\n"
JSON = b"content-type: application/json\r\n"
AUTH = f"authorization: Bearer {KEY}\r\n".encode()
CHUNKED = b"transfer-encoding: chunked\r\n"
POST = f"POST {CHAT} HTTP/1.1\r\n".encode() + HOST
CRUMB = b"1\r\n \r\n"
BODY = json.dumps(request(ANSWERED)).encode()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    root = tmp_path_factory.mktemp("connection")
    tenants = tenants_file(root / "tenants.toml", alice="requests_per_minute = 1000000")
    with serving(folder_of(root / "policies", policy(), policy("strict")), tenants) as made:
        yield made
        wait_until(lambda: not made.process.server_state.connections, seconds=60)


@contextmanager
def line_to(server):
    place = urlsplit(server.url)
    with socket.create_connection((place.hostname, place.port), timeout=60) as line:
        try:
            yield line
        # closed alone, a line lives on while another thread reads from it, and the server does not
        # hear of it
        finally:
            with contextlib.suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)


def heard(line) -> bytes:
    """All that comes until the server closes its side."""
    pieces = []
    with contextlib.suppress(OSError):  # reset, or closed by the sender of an attack
        while piece := line.recv(65536):
            pieces.append(piece)
    return b"".join(pieces)


def send_slowly(line, piece: bytes, times: int) -> None:
    for _ in range(times):
        line.sendall(piece)
        time.sleep(0.01)


def is_served(server) -> bool:
    with httpx.Client(base_url=server.url, trust_env=False, timeout=60) as client:
        got = client.post(CHAT, json=request(ANSWERED), headers={"authorization": f"Bearer {KEY}"})
    return got.status_code == 200


HEADS = {
    "a route without a body": (b"GET /healthz HTTP/1.1\r\n" + HOST + CHUNKED, 200),
    "another one, sized": (
        b"GET /readyz HTTP/1.1\r\n" + HOST + b"content-length: 99999999\r\n",
        200,
    ),
    "no key": (POST + JSON + CHUNKED, 401),
    "no such route": (b"POST /x HTTP/1.1\r\n" + HOST + CHUNKED, 404),
    "no such method": (f"PUT {CHAT} HTTP/1.1\r\n".encode() + HOST + CHUNKED, 405),
    "no JSON": (POST + AUTH + CHUNKED, 415),
    "HTTP/1.0": (b"GET /healthz HTTP/1.0\r\ncontent-length: 99999999\r\n", 200),
}


@pytest.mark.parametrize(("head", "status"), HEADS.values(), ids=HEADS)
def test_a_request_whose_body_nobody_reads_is_answered_at_its_headers(server, head, status):
    with line_to(server) as line:
        line.sendall(head + b"\r\n")
        answer = heard(line)
    assert answer.split()[1] == str(status).encode()
    assert b"connection: close" in answer.lower()


@pytest.mark.parametrize(("head", "status"), HEADS.values(), ids=HEADS)
def test_its_client_gets_the_answer_though_it_goes_on_sending_and_is_then_cut_off(
    server, head, status
):
    with line_to(server) as line:
        line.sendall(head + b"\r\n" + CRUMB * 10_000)
        answer = line.recv(4096)
        # cut off: a line that is merely not read any more is a TimeoutError
        with pytest.raises(ConnectionError):
            send_slowly(line, CRUMB * 1000, times=6_000)  # a minute and more
    assert answer.split()[1] == str(status).encode()


def test_bodies_that_nobody_reads_are_never_parsed(server, monkeypatch):
    parsed = []
    original = connection._Parser.next_event

    def counted(self):
        event = original(self)
        if isinstance(event, connection.h11.Data):
            parsed.append(event)
        return event

    monkeypatch.setattr(connection._Parser, "next_event", counted)
    for head, _ in HEADS.values():
        with line_to(server) as line:
            line.sendall(head + b"\r\n" + CRUMB * 100)
            heard(line)
    assert parsed == []


def test_a_small_body_that_nobody_reads_costs_no_connection(server):
    with httpx.Client(base_url=server.url, trust_env=False) as client:
        for _ in range(5):
            got = client.post(CHAT, json=request(ANSWERED))
            assert (got.status_code, got.headers.get("connection")) == (401, None)
            line = got.extensions["network_stream"].get_extra_info("client_addr")
            assert (
                client.get("/healthz").extensions["network_stream"].get_extra_info("client_addr")
                == line
            )


@pytest.mark.parametrize("pieces", [1, 7, 100, FREE_PIECES - 1])
def test_a_body_may_come_in_pieces(server, pieces):
    size = -(-len(BODY) // pieces)
    padded = BODY.ljust(pieces) if pieces > len(BODY) else BODY
    parts = [padded[n : n + size] for n in range(0, len(padded), size)]
    with line_to(server) as line:
        line.sendall(POST + AUTH + JSON + CHUNKED + b"connection: close\r\n\r\n")
        for part in parts:
            line.sendall(b"%x\r\n%s\r\n" % (len(part), part))
        line.sendall(b"0\r\n\r\n")
        assert b" 200 " in heard(line)[:20]


def test_a_body_in_crumbs_is_refused(server):
    with line_to(server) as line:
        line.sendall(POST + AUTH + JSON + CHUNKED + b"\r\n" + CRUMB * 50_000)
        assert b" 400 " in heard(line)[:20]


def test_a_large_body_in_packets_is_no_body_in_crumbs(server):
    body = json.dumps(request("a " * 400_000)).encode()
    with line_to(server) as line:
        line.sendall(
            POST + AUTH + JSON + b"connection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
        )
        for n in range(0, len(body), 600):
            line.sendall(body[n : n + 600])
        assert b" 200 " in heard(line)[:20]


def test_a_client_that_waits_to_be_told_to_go_on_is_told_only_if_its_body_is_wanted(server):
    expect = b"expect: 100-continue\r\ncontent-length: %d\r\n\r\n" % (len(BODY) + 20_000)
    with line_to(server) as line:
        line.sendall(POST + AUTH + JSON + expect)
        assert b" 100 " in line.recv(4096)
        line.sendall(BODY + b" " * 20_000)
        assert b" 200 " in line.recv(4096)[:20]
    with line_to(server) as line:
        line.sendall(POST + JSON + expect)
        assert b" 401 " in heard(line)[:20]


def test_requests_sent_ahead_are_answered_one_by_one(server):
    one = b"GET /healthz HTTP/1.1\r\n" + HOST
    with line_to(server) as line:
        line.sendall((one + b"\r\n") * 20 + one + b"connection: close\r\n\r\n")
        assert heard(line).count(b'{"status":"ok"}') == 21


def test_a_request_that_was_sent_ahead_is_not_cut_off_as_an_idle_connection_is(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(connection, "IDLE_S", 0.3)
    size = b"content-length: %d\r\n" % len(BODY)
    with serving(folder_of(tmp_path, policy())) as slow, line_to(slow) as line:
        slow.backend.delay_s = 0.4
        line.sendall(
            (POST + JSON + size + b"\r\n" + BODY)
            + (POST + JSON + size + b"connection: close\r\n\r\n" + BODY)
        )
        assert heard(line).count(b"HTTP/1.1 200") == 2


def test_headers_are_bounded_in_number(server):
    few, many = (
        b"".join(b"x-%d: y\r\n" % n for n in range(count))
        for count in (MOST_HEADERS - 5, MOST_HEADERS)
    )
    for headers, status in ((few, b"200"), (many, b"400")):
        with line_to(server) as line:
            line.sendall(
                b"GET /healthz HTTP/1.1\r\n" + HOST + b"connection: close\r\n" + headers + b"\r\n"
            )
            assert heard(line).split()[1] == status


COUNTLESS = {
    "parts": {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": ""}] * (MOST_STRINGS // 3)}
        ]
    },
    "messages": {"messages": [{"role": "user", "content": ""}] * (MOST_STRINGS // 3)},
    "nulls": {f"a{n}": None for n in range(MOST_STRINGS)},
    "numbers": {"metadata": [1] * (MOST_STRINGS + 2)},
    "names": {"demur": {"thresholds": {f"a{n}": 0.1 for n in range(MOST_STRINGS)}}},
}


@pytest.mark.parametrize("fields", COUNTLESS.values(), ids=COUNTLESS)
def test_countless_small_values_are_not_read_one_by_one(server, fields):
    got = (
        server.chat(key=KEY, **fields)
        if "messages" not in fields
        else _posted(server, {"model": "demur", **fields})
    )
    assert (got.status_code, got.json()["error"]["code"]) == (413, "request_too_large")


def _posted(server, body):
    with server.client(KEY) as client:
        return client.post(CHAT, json=body)


@pytest.mark.parametrize(
    "text", ["a" * 900_000, '"' * 400_000, "\\" * 400_000, "é" * 150_000, '","' * 100_000]
)
def test_long_texts_are_no_countless_values(server, text):
    assert server.chat(text, key=KEY).status_code == 200


@pytest.mark.parametrize(
    "body", [b'{"a":"' + b'\\"' * 300_000, b'"' + b"\\" * 300_001, b'"' * 300_001], ids=len
)
def test_a_body_without_an_end_is_not_looked_through_twice(server, body):
    with server.client(KEY) as client:
        got = client.post(CHAT, content=body, headers={"content-type": "application/json"})
    assert got.status_code in (400, 413)
    # Every quote begins a match, closed or not: no attempt fails, after which the next quote would
    # look on to the end.
    assert schema._STRING.sub(b"", body).strip(b"{:") == b""


ATTACKS = {
    "crumbs for a route without a body": (
        b"GET /healthz HTTP/1.1\r\n" + HOST + CHUNKED + b"\r\n",
        CRUMB * 10_000,
    ),
    "crumbs without a key": (POST + JSON + CHUNKED + b"\r\n", CRUMB * 10_000),
    "crumbs with a key": (POST + AUTH + JSON + CHUNKED + b"\r\n", CRUMB * 10_000),
    "long chunk extensions": (
        POST + AUTH + JSON + CHUNKED + b"\r\n",
        (b"1;" + b"x" * 8000 + b"\r\n \r\n") * 20,
    ),
    "requests sent ahead": (b"", (b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n") * 1000),
    "heads of many headers": (
        b"",
        b"GET /healthz HTTP/1.1\r\n" + HOST + b"a: b\r\n" * 2500 + b"\r\n",
    ),
}


@pytest.mark.parametrize(("head", "piece"), ATTACKS.values(), ids=ATTACKS)
def test_one_client_at_full_speed_does_not_keep_others_from_being_answered(server, head, piece):
    stop, sent, lines = threading.Event(), threading.Event(), []

    def send_for_ever():
        while not stop.is_set():
            with contextlib.suppress(OSError), line_to(server) as line:
                lines.append(line)
                threading.Thread(target=heard, args=(line,), daemon=True).start()
                line.sendall(head)
                while not stop.is_set():
                    line.sendall(piece)
                    sent.set()

    thread = threading.Thread(target=send_for_ever)
    thread.start()
    try:
        wait_until(sent.is_set, seconds=60)
        assert all(is_served(server) for _ in range(5))
        assert thread.is_alive()  # the attack went on meanwhile
    finally:
        stop.set()
        for line in lines:  # it may be in the middle of sending what the server has no time to read
            with contextlib.suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_a_request_may_last_so_long_in_all(tmp_path):
    folder = folder_of(tmp_path, policy())
    with serving(folder, limits=RequestLimits(request_s=0.3)) as slow:
        slow.backend.delay_s = 5.0
        got = slow.chat(ANSWERED)
        assert (got.status_code, got.json()["error"]["code"]) == (504, "timeout")
        slow.backend.delay_s = 0.0
        assert slow.chat(ANSWERED).status_code == 200
