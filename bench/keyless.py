"""What one client without a key, at full speed, does to the answers of a client with one.

    python bench/keyless.py RUN [--seconds 4] [--rounds 3]

RUN: a finished run, served in process. The client with a key asks for the models, one request after
the other: on one connection, and on a new one each time. Each attack runs in a process of its own,
from another address of this machine, on 16 connections at a time, and makes a new one whenever one
is closed. Pieces with and without it take turns. Said of each: median and 99th percentile of an
answer, as multiples of those without it. Exit code 1 if a median is more than doubled.
"""

from __future__ import annotations

import argparse
import http.client
import json
import multiprocessing
import socket
import sys
import tempfile
import threading
import time
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

import servers
from load_hostile import THEM, site

MOST_SLOWER = 2.0
ELSEWHERE = "127.0.0.2"  # the attacker's address
LINES = 16  # connections of the attacker at a time
GET = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n"
POST = (
    b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
)
CHUNKED = POST + b"transfer-encoding: chunked\r\n\r\n"
CLOSE = b"connection: close\r\n\r\n"
# What is sent first, and what again and again; without the second, the answer is awaited and a new
# connection made.
ATTACKS: dict[str, tuple[bytes, bytes]] = {
    "connections without a word": (b"", b""),
    "heads": (GET + CLOSE, b""),
    "heads of 99 headers": (GET + b"".join(b"x-%d: y\r\n" % n for n in range(97)) + CLOSE, b""),
    "HTTP/1.0": (b"GET /healthz HTTP/1.0\r\n\r\n", b""),
    "long paths": (b"GET /" + b"%41" * 5000 + b" HTTP/1.1\r\nhost: localhost\r\n" + CLOSE, b""),
    "wrong keys": (POST + b"authorization: Bearer x\r\ncontent-length: 2\r\n" + CLOSE + b"{}", b""),
    "no HTTP": (b"\x16\x03\x01\r\n\r\n", b""),
    "a head in drips": (GET + b"x: ", b"y"),
    "headers in drips": (GET, b"x: y\r\n"),
    "a body in crumbs": (CHUNKED, b"1\r\n \r\n"),
    "chunk extensions": (CHUNKED, b"1;" + b"x" * 8000 + b"\r\n \r\n"),
    "requests sent ahead": (b"", (GET + b"\r\n") * 100),
}


def attack(place: tuple[str, int], first: bytes, again: bytes) -> None:
    """Send at full speed on many connections, for ever."""
    threads = [threading.Thread(target=_send, args=(place, first, again)) for _ in range(LINES)]
    for thread in threads:
        thread.start()


def _send(place: tuple[str, int], first: bytes, again: bytes) -> None:
    while True:
        with (
            suppress(OSError),
            socket.create_connection(place, timeout=5, source_address=(ELSEWHERE, 0)) as line,
        ):
            line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            line.sendall(first)
            if not again:
                while first and line.recv(65536):
                    pass
                continue
            while True:
                line.sendall(again)
                with suppress(BlockingIOError):
                    if not line.recv(65536, socket.MSG_DONTWAIT):
                        break


def ask(place: tuple[str, int], seconds: float, *, anew: bool) -> list[float]:
    """Seconds that each answer took. anew: on a new connection each."""
    took_s, end_s = [], time.perf_counter() + seconds
    line = http.client.HTTPConnection(*place, timeout=60)
    while time.perf_counter() < end_s:
        began_s = time.perf_counter()
        if anew:
            line.close()
        line.request("GET", "/v1/models", headers={"authorization": f"Bearer {THEM}"})
        answer = line.getresponse()
        answer.read()
        assert answer.status == http.client.OK, answer.status
        took_s.append(time.perf_counter() - began_s)
    line.close()
    return took_s


def measured(
    place: tuple[str, int], name: str, seconds: float, rounds: int
) -> dict[str, list[float]]:
    """How long answers took without the attack and with it, on one connection and on new ones."""
    took_s: dict[str, list[float]] = defaultdict(list)
    for _ in range(rounds):
        for kind in ("kept", "anew"):
            took_s[kind] += ask(place, seconds, anew=kind == "anew")
        attacker = multiprocessing.get_context("spawn").Process(
            target=attack, args=(place, *ATTACKS[name]), daemon=True
        )
        attacker.start()
        time.sleep(1.5)  # until it is at full speed
        for kind in ("kept", "anew"):
            took_s[kind + " beside it"] += ask(place, seconds, anew=kind == "anew")
        attacker.kill()
        attacker.join()
        time.sleep(0.5)
    return took_s


def main() -> None:
    """Serve a run in a process of its own and attack it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", choices=ATTACKS, default=list(ATTACKS))
    told = parser.parse_args()
    slowest = 0.0
    with tempfile.TemporaryDirectory() as root:
        folder, tenants = site(Path(root), told.run / "calibrate" / "policy.json")
        words = servers.serve_words(told.run, folder, Path(root) / "serve.toml")
        words += ["--tenants", str(tenants)]
        with servers.demur(words) as (url, _):
            parts = urlsplit(url)
            place = (str(parts.hostname), int(parts.port or 0))
            for name in told.only:
                took_s = measured(place, name, told.seconds / told.rounds, told.rounds)
                line = {"attack": name}
                for kind in ("kept", "anew"):
                    alone, beside = (
                        np.percentile(took_s[k], [50, 99]) for k in (kind, kind + " beside it")
                    )
                    line[kind] = (
                        f"{alone[0] * 1000:.2f} ms x {beside[0] / alone[0]:.2f}, 99 % x "
                        f"{beside[1] / alone[1]:.2f}"
                    )
                    slowest = max(slowest, float(beside[0] / alone[0]))
                print(json.dumps(line), flush=True)
    sys.exit(slowest > MOST_SLOWER)


if __name__ == "__main__":
    main()
