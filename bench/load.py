"""Many streaming clients at once against `demur serve`, while its policy is replaced again and again.

    python bench/load.py RUN [--clients 64] [--seconds 60] [--replacements 500]
    python bench/load.py RUN --backend gateway --url http://127.0.0.1:8001/v1     # a vLLM server behind it

RUN: a finished run. Says how many requests were answered, how many failed, whether every answer carried the hash of a
policy that was in force when it was decided, and how the server's memory moved. Exit code 1 on any failure.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import httpx
import numpy as np
import psutil

from demur.core.policy import Policy
from demur.store.policy_file import policy_digest, read_policy, write_policy

RELOAD_S = 0.05  # between two looks of the server at its policies
LATE_S = RELOAD_S + 2.0  # after a replacement the policy before may still decide: a look, and the time a busy one takes
WARM_UP = 1 / 3  # of the run: until then memory may grow
MOST_GROWTH = 0.03  # of the memory at the warm-up's end, fitted over the rest of the run: more is no longer flat
TEXTS = (
    "Name a river.",
    "What is the capital of France?",
    "Tell me how you feel today.",
    "Write a poem about the sea, please.",
    "bake bread",
)


@dataclass(kw_only=True)
class Report:
    """What was seen."""

    answers: list[tuple[float, float, str]] = field(default_factory=list)  # sent at, decided by, hash
    errors: list[str] = field(default_factory=list)
    put: list[tuple[float, str]] = field(default_factory=list)  # when a policy was put there, hash
    memory: list[tuple[float, int]] = field(default_factory=list)  # s, bytes resident
    reloads: int = 0  # policies that the server took over

    def stale(self) -> list[str]:
        """Answers with a hash that was not in force between LATE_S before they were sent and their decision."""
        known = {digest: at for at, (_, digest) in enumerate(self.put)}
        ends = [at for at, _ in self.put[1:]] + [float("inf")]
        wrong = []
        for sent, decided, digest in self.answers:
            at = known.get(digest)
            if at is None or self.put[at][0] > decided or ends[at] < sent - LATE_S:
                wrong.append(f"{digest[:16]} at {sent:.2f}")
        return wrong

    def latest_s(self) -> float:
        """How long after its replacement a policy still decided a request that was sent only then."""
        ends = {digest: end for (_, digest), (end, _) in pairwise(self.put)}
        return max((sent - ends[digest] for sent, _, digest in self.answers if digest in ends), default=0.0)

    def growth(self) -> float:
        """Fitted growth of memory after the warm-up, as a share of what it was then."""
        start = self.memory[0][0] + WARM_UP * (self.memory[-1][0] - self.memory[0][0])
        seconds, size = np.array([m for m in self.memory if m[0] >= start], dtype=float).T
        slope = np.polyfit(seconds - seconds[0], size, 1)[0]
        return float(slope * (seconds[-1] - seconds[0]) / size[0])

    def failures(self) -> list[str]:
        """What speaks against the server."""
        found = [f"errors: {self.errors[:3]}"] if self.errors else []
        found += [f"answers under a policy not in force: {stale[:3]}"] if (stale := self.stale()) else []
        found += [f"memory grew by {self.growth():.1%}"] if self.growth() > MOST_GROWTH else []
        return found

    def lines(self) -> list[str]:
        """For people."""
        mb = [size / 2**20 for _, size in self.memory]
        return [
            f"{len(self.answers)} answers streamed, {len(self.errors)} errors",
            f"{len(self.put) - 1} replacements of the policy, {self.reloads} taken over; "
            f"{len({a[2] for a in self.answers})} hashes seen, "
            f"{len(self.answers)} checked, {len(self.stale())} not in force "
            f"(latest use {self.latest_s():.2f} s after its replacement, allowed {LATE_S:.2f} s)",
            f"memory {mb[0]:.0f} MB at the start, {mb[-1]:.0f} MB at the end, at most {max(mb):.0f} MB; "
            f"fitted growth after the first third {self.growth():+.2%} (flat: at most {MOST_GROWTH:.0%})",
        ]


def variants(policy: Policy, count: int) -> list[Policy]:
    """Policies that differ in one threshold, from a tenth of the odds to ten times as much, up and down."""
    name = next(n for n in policy.taxonomy.names if policy.category(n).may_emit)
    plain = replace(policy, promises=())
    factors = 10 ** np.sin(np.arange(count) / 7.0)
    base = min(plain.category(name).threshold, 1e6) or 0.01
    return [plain.with_thresholds({name: float(base * f * (1 + n * 1e-6))}) for n, f in enumerate(factors)]


async def _client(url: str, model: str, number: int, end: float, report: Report) -> None:
    """One client: streams answer after answer until the end."""
    asked = number
    async with httpx.AsyncClient(base_url=url, timeout=60.0, trust_env=False) as client:
        while time.monotonic() < end:
            asked += 1
            said = [{"role": "user", "content": f"{TEXTS[asked % len(TEXTS)]} {asked}"}]
            body = {"model": model, "messages": said, "stream": True, "max_tokens": 4 + asked % 13}
            sent, first, whole = time.monotonic(), None, False
            try:
                async with client.stream("POST", "/v1/chat/completions", json=body) as got:
                    async for line in got.aiter_lines():
                        if first is None and line.startswith("data: {"):
                            first = (time.monotonic(), json.loads(line[6:])["demur"]["policy_hash"])
                        whole = whole or line == "data: [DONE]"
            except (httpx.HTTPError, KeyError) as e:
                report.errors.append(f"{type(e).__name__} {e}")
                continue
            if first is None or not whole or got.status_code != httpx.codes.OK:
                report.errors.append(f"status {got.status_code}, whole: {whole}")
            else:
                report.answers.append((sent, *first))


async def _replace(file: Path, policies: Sequence[Policy], seconds: float, report: Report) -> None:
    """Put one policy after the other in place, by renaming, evenly over the time."""
    start = time.monotonic()
    for at, policy in enumerate(policies, start=1):
        await asyncio.sleep(max(0.0, start + seconds * at / (len(policies) + 1) - time.monotonic()))
        digest = policy_digest(policy)
        report.put.append((time.monotonic(), digest))  # before: it cannot be in force any earlier
        await asyncio.to_thread(write_policy, file, policy)


async def _weigh(process: psutil.Process, end: float, report: Report) -> None:
    while time.monotonic() < end:
        report.memory.append((time.monotonic(), process.memory_info().rss))
        await asyncio.sleep(0.25)


async def crowd(url: str, model: str, pid: int, file: Path, given: tuple[int, float, int]) -> Report:
    """Load a server without keys. file: its policy, in place; given: clients, seconds, replacements."""
    clients, seconds, replacements = given
    now = read_policy(file)
    report, end = Report(), time.monotonic() + seconds
    report.put.append((0.0, policy_digest(now)))
    await asyncio.gather(
        *(_client(url, model, n * 1000, end, report) for n in range(clients)),
        _replace(file, variants(now, replacements), seconds, report),
        _weigh(psutil.Process(pid), end, report),
    )
    async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
        counted = (await client.get("/metrics")).text
    report.reloads = int(float(counted.partition('demur_policy_changes_total{kind="changed"} ')[2].partition("\n")[0]))
    return report


def main() -> None:
    """Serve a run in a process of its own and load it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--replacements", type=int, default=500)
    parser.add_argument("--backend", default="hf")
    parser.add_argument("--url", default=None)
    told = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "policies"
        folder.mkdir()
        shutil.copy(told.run / "calibrate" / "policy.json", folder / "policy.json")
        config = Path(root) / "serve.toml"
        config.write_text(f'[server]\nmodel = "m"\nreload_s = {RELOAD_S}\n[files]\nwatch = []\n', encoding="utf-8")
        command = [sys.executable, "-m", "demur", "serve", str(told.run), "--config", str(config), "--port", "0"]
        command += ["--policies", str(folder), "--backend", told.backend, *(["--url", told.url] if told.url else [])]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as server:
            try:
                assert server.stderr is not None
                said = ""
                while " on http" not in said:
                    said = server.stderr.readline()
                    assert said, "the server did not start"
                url = said.partition(" on ")[2].partition("/v1")[0]
                given = (told.clients, told.seconds, told.replacements)
                report = asyncio.run(crowd(url, "m", server.pid, folder / "policy.json", given))
            finally:
                server.terminate()
        print(f"{told.clients} clients, {told.seconds:g} s, backend {told.backend}")
        print("\n".join([*report.lines(), *report.failures()]))
        sys.exit(bool(report.failures() or server.returncode))


if __name__ == "__main__":
    main()
