"""Streaming clients that leave at random, then the same beside a tenant that sends the worst
schemas that are accepted.

    python bench/load_hostile.py RUN [--clients 64] [--seconds 60] [--hostile 16] [--rounds 6]
    python bench/load_hostile.py RUN --backend gateway --vllm .venv-vllm/bin/python   # before vLLM

RUN: a finished run. Its policy is served with nothing refused, so that every request is written.
One client in five hangs up in the middle. Said of each half: answers, errors, how long a whole
answer of 8 tokens took, requests still counted as being served afterwards, and how the memory of
`demur serve` and its children moved. Exit code 1 on an error, a place that was not given back,
memory that is not flat, or other tenants' 99th percentile more than doubled.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import itertools
import json
import random
import ssl
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil

from demur.core.policy import DoubtRule
from demur.store.policies.policy_file import read_policy, write_policy
from demur.store.run import RunFolder

LEAVE = 0.2  # share of requests whose client hangs up in the middle
TOKENS = 8  # of every answer
MOST_S = 60.0
MOST_GROWTH = 0.03  # of memory, fitted over the last two thirds: more is no longer flat
MOST_SLOWER = 2.0  # of other tenants' 99th percentile beside a hostile one
THEM, ME = "demur_them_load", "demur_hostile_load"
NUMBERS = itertools.count()  # of hostile schemas
# made once: httpx makes one per client, 25 ms on the loop of all clients here
NO_TLS = ssl.create_default_context()


@dataclass(kw_only=True)
class Half:
    """What one half of the load came to."""

    name: str
    took_s: list[float] = field(default_factory=list)  # whole answers of those who stayed
    left: int = 0
    errors: list[str] = field(default_factory=list)
    # how the hostile tenant's requests ended
    hostile: Counter[str] = field(default_factory=Counter)
    memory: list[tuple[float, int]] = field(default_factory=list)  # s, bytes resident, children too
    unfinished: float = 0.0  # requests that the server still counts when nobody asks any more
    over: bool = False

    @property
    def p99_s(self) -> float:
        """99th percentile of a whole answer."""
        return float(np.percentile(self.took_s, 99))

    def growth(self) -> float:
        """Fitted growth of memory over the last two thirds, as a share."""
        rest = self.memory[len(self.memory) // 3 :]
        seconds, size = np.array(rest, dtype=float).T
        slope = np.polyfit(seconds - seconds[0], size, 1)[0]
        return float(slope * (seconds[-1] - seconds[0]) / size[0])

    def failures(self) -> list[str]:
        """What speaks against the server."""
        found = [f"errors: {self.errors[:3]}"] if self.errors else []
        found += [f"{self.unfinished:g} requests were never over"] if self.unfinished else []
        return found + (
            [f"memory grew by {self.growth():.1%}"] if self.growth() > MOST_GROWTH else []
        )

    def line(self) -> str:
        """For people."""
        mb = [size / 2**20 for _, size in self.memory]
        p50, p99 = np.percentile(self.took_s, [50, 99]) * 1000
        return (
            f"{self.name}: {len(self.took_s)} answers, {self.left} left, {len(self.errors)} "
            f"errors; {p50:.0f} ms half, {p99:.0f} ms 99 %; {self.unfinished:g} unfinished; memory "
            f"{mb[0]:.0f} to {mb[-1]:.0f} MB, at most {max(mb):.0f}, fitted {self.growth():+.1%}; "
            f"hostile {dict(self.hostile)}"
        )


def worst(n: int) -> dict[str, Any]:
    """Schemas at the edge of what is accepted, each one another, so that none is known already."""
    mark = {f"mark{n}": {"type": "boolean"}}
    kinds: tuple[dict[str, Any], ...] = (
        {"type": "string", "allOf": [{"pattern": f"(a|b)*a(a|b){{{k + 4}}}"} for k in range(4)]},
        {
            "type": "string",
            "allOf": [{"pattern": "(a|b)*a(a|b){200}"}, {"pattern": "(a|b)*b(a|b){201}"}],
        },
        {"type": "string", "pattern": "(.*a.*b){20}.{1,400}" + "(a|b)*a(a|b){90}"},
        {"type": "integer", "multipleOf": 9973, "minimum": 1, "maximum": 10**12},
        {"type": "object", "properties": {f"p{k}": {"type": "string"} for k in range(256)}},
        {"enum": [f"choice {k} of {n}" for k in range(2000)]},
        _doubling(9),
        {
            "type": "array",
            "items": {"type": "array", "items": {"type": "number"}, "minItems": 4000},
            "minItems": 4000,
        },
    )
    return {
        "type": "object",
        "properties": {"value": kinds[n % len(kinds)], **mark},
        "required": ["value"],
    }


def _doubling(levels: int) -> dict[str, Any]:
    """Each level holds the next one twice, written out: nearly as many values as are accepted."""
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels - 2):
        schema = {"anyOf": [schema, {"type": "object", "properties": {"a": schema}}]}
    return schema


async def _ordinary(url: str, model: str, number: int, half: Half) -> None:
    """One client: streams one answer after the other, and leaves one in five in the middle."""
    dice = random.Random(number)
    async with _client(url, THEM, MOST_S) as client:
        while not half.over:
            body = _body(model, f"Name a river. {dice.random()}") | {"stream": True}
            leaves_after = dice.randrange(4) if dice.random() < LEAVE else None
            start, last = time.monotonic(), ""
            try:
                async with client.stream("POST", "/v1/chat/completions", json=body) as got:
                    events = 0
                    async for line in got.aiter_lines():
                        last, events = line or last, events + line.startswith("data:")
                        if leaves_after is not None and events > leaves_after:
                            break
            except httpx.HTTPError as e:
                half.errors.append(f"{type(e).__name__} {e}")
                continue
            if leaves_after is not None:
                half.left += 1
            elif got.status_code != httpx.codes.OK or last != "data: [DONE]":
                half.errors.append(f"status {got.status_code}, last {last[:200]}")
            else:
                half.took_s.append(time.monotonic() - start)


async def _hostile(url: str, model: str, number: int, half: Half) -> None:
    """One client of the hostile tenant: a new schema each time, and half of them it does not wait
    for.
    """
    dice = random.Random(-number - 1)
    while not half.over:
        form = {"type": "json_schema", "json_schema": {"name": "a", "schema": worst(next(NUMBERS))}}
        body = _body(model, "Name a river.") | {"response_format": form, "max_tokens": 64}
        patience_s = dice.random() if dice.random() < 0.5 else MOST_S
        try:
            async with _client(url, ME, patience_s) as client:
                status = (await client.post("/v1/chat/completions", json=body)).status_code
            half.hostile[str(status)] += 1
        except httpx.TimeoutException:
            half.hostile["left"] += 1
        except httpx.HTTPError as e:
            half.hostile[type(e).__name__] += 1


def _body(model: str, text: str) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": TOKENS}


def _client(url: str, key: str, patience_s: float) -> httpx.AsyncClient:
    headers = {"authorization": f"Bearer {key}"}
    return httpx.AsyncClient(
        base_url=url, timeout=patience_s, headers=headers, trust_env=False, verify=NO_TLS
    )


async def _weigh(pid: int, half: Half) -> None:
    server = psutil.Process(pid)
    while not half.over:
        size = server.memory_info().rss
        for child in server.children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                size += child.memory_info().rss - child.memory_info().shared
        half.memory.append((time.monotonic(), size))
        await asyncio.sleep(0.25)


async def run_half(
    where: tuple[str, str, int], half: Half, clients: int, hostile: int, seconds: float
) -> Half:
    """Load a server for a while. where: its address, its model's name, its process."""
    url, model, pid = where
    half.over = False

    async def stop() -> None:
        await asyncio.sleep(seconds)
        half.over = True

    ours = [_ordinary(url, model, n, half) for n in range(clients)]
    theirs = [_hostile(url, model, n, half) for n in range(hostile)]
    await asyncio.gather(stop(), _weigh(pid, half), *ours, *theirs)
    async with _client(url, THEM, MOST_S) as client:
        for _ in range(100):
            lines = (await client.get("/metrics")).text.splitlines()
            inside = next(line for line in lines if line.startswith("demur_requests_in_flight "))
            left = float(inside.split()[1]) - 1  # this very request is one
            if not left:
                break
            await asyncio.sleep(0.1)
    half.unfinished += left
    return half


def site(root: Path, policy_file: Path) -> tuple[Path, Path]:
    """A folder with the policy, nothing refused, and the tenants."""
    policy = read_policy(policy_file)
    answered = tuple(replace(c, override="suppress") for c in policy.categories)
    folder = root / "policies"
    folder.mkdir()
    name = "load"
    never = replace(
        policy, name=name, categories=answered, promises=(), doubt=DoubtRule(most_leftover=1.0)
    )
    write_policy(folder / f"{name}.json", never)
    text = ""
    for tenant, key in (("them", THEM), ("hostile", ME)):
        digest = hashlib.sha256(key.encode()).hexdigest()
        text += (
            f'[tenants.{tenant}]\npolicies = ["{name}"]\nrequests_per_minute = '
            "1000000\nconcurrent = 128\n"
        )
        text += (
            f'sees_scores = true\n[[tenants.{tenant}.keys]]\nlabel = "load"\nsha256 = "{digest}"\n'
        )
    (root / "tenants.toml").write_text(text, encoding="utf-8")
    return folder, root / "tenants.toml"


async def both(
    where: tuple[str, str, int], crowd: tuple[int, int], seconds: float, rounds: int
) -> list[Half]:
    """The load without and with the hostile tenant, after a moment to warm up. crowd: ordinary and
    hostile clients.
    """
    clients, hostile = crowd
    await run_half(where, Half(name="warm-up"), clients, min(hostile, 8), min(5.0, seconds))
    alone, beside = Half(name="leaving"), Half(name="beside a hostile tenant")
    for _ in range(rounds):  # in turn, so that what else the machine does meets both alike
        await run_half(where, alone, clients, 0, seconds / rounds)
        await run_half(where, beside, clients, hostile, seconds / rounds)
    return [alone, beside]


def judged(halves: list[Half]) -> list[str]:
    """What speaks against the server."""
    alone, beside = halves
    failures = [f"{half.name}: {found}" for half in halves for found in half.failures()]
    if beside.p99_s > MOST_SLOWER * alone.p99_s:
        failures.append(
            f"99th percentile {beside.p99_s:.2f} s beside a hostile tenant, {alone.p99_s:.2f} s "
            "without"
        )
    return failures


def main() -> None:
    """Serve a run in a process of its own and load it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--hostile", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument(
        "--rounds", type=int, default=6, help="pieces of a half; pieces of the two take turns"
    )
    parser.add_argument("--backend", choices=("hf", "gateway"), default="hf")
    parser.add_argument("--vllm", type=Path, help="Python of an environment with vLLM")
    told = parser.parse_args()
    import servers  # beside this file, whose directory is on the path of a program only

    with tempfile.TemporaryDirectory() as root, ExitStack() as stack:
        folder, tenants = site(Path(root), told.run / "calibrate" / "policy.json")
        backend = f'[backend]\nmodel = "{servers.MODEL}"\nreferences = 0\n'
        more = "" if told.backend == "hf" else backend
        words = servers.serve_words(told.run, folder, Path(root) / "serve.toml", more)
        words += ["--tenants", str(tenants), "--backend", told.backend]
        if told.backend != "hf":
            served = servers.vllm(told.vllm, RunFolder(told.run).model)
            words += ["--url", stack.enter_context(served)[0]]
        log = Path(root) / "log"
        with servers.demur(words, log=log) as (url, server):
            where = (url, servers.MODEL, server.pid)
            halves = asyncio.run(
                both(where, (told.clients, told.hostile), told.seconds, told.rounds)
            )
        events = [json.loads(line) for line in log.open()]
    reasons = Counter(e["reason"] for e in events if e["level"] == "error" and "reason" in e)
    failures = judged(halves)
    print(
        f"{told.clients} clients, {told.hostile} hostile, backend {told.backend}; load average "
        f"{psutil.getloadavg()}"
    )
    print(
        "\n".join(
            [
                *(half.line() for half in halves),
                *failures,
                *(f"log: {n} x {r}" for r, n in reasons.items()),
            ]
        )
    )
    sys.exit(bool(failures or server.returncode))


if __name__ == "__main__":
    main()
