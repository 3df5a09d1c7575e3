"""Many streaming clients at once against `demur serve`, while its policy is replaced again and
again.

    python bench/load.py RUN [--clients 64] [--seconds 60] [--replacements 500]
    python bench/load.py RUN --backend gateway --vllm .venv-vllm/bin/python  # an unmodified vLLM
    python bench/load.py RUN --backend vllm --vllm .venv-vllm/bin/python     # with demur's plug-in

RUN: a finished run. The servers are processes of their own. Each policy is put in place when the
server's metrics say that the one before is in force; the load goes on until the last one is. So
every answer's hash can be checked without any allowance: its policy was put in place before it
decided, and the next one was not yet seen to be in force when the request was sent. Also said: how
many requests failed, and how the memory of `demur serve` moved. Exit code 1 on any failure.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx
import numpy as np
import psutil

from demur.core.policy import Policy
from demur.store.policies.policy_file import policy_digest, read_policy, write_policy
from demur.store.run import RunFolder

RELOAD_S = 0.05  # between two looks of the server at its policies
LOOK_S = 0.02  # between two looks of ours at its metrics
MOST_S = 60.0  # for one policy to be taken over, and for one piece of an answer
WARM_UP = 1 / 3  # of the run: until then memory may grow
# of the memory at the warm-up's end, fitted over the rest of the run: more is no longer flat
MOST_GROWTH = 0.03
TEXTS = (
    "Name a river.",
    "What is the capital of France?",
    "Tell me how you feel today.",
    "Write a poem about the sea, please.",
    "bake bread",
)


@dataclass(kw_only=True)
class Reload:
    """One policy, by its hash. Times are of the machine's one monotonic clock."""

    digest: str
    put_s: float  # it was put in place then, and decided nothing before
    # the server was seen to hold it, and no other one decided what came later
    seen_s: float = float("inf")


@dataclass(kw_only=True)
class Report:
    """What was seen."""

    # sent at, decided by, hash
    answers: list[tuple[float, float, str]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    reloads: list[Reload] = field(default_factory=list)  # the first is what the server started with
    memory: list[tuple[float, int]] = field(default_factory=list)  # s, bytes resident
    over: bool = False  # clients finish what they have begun

    def stale(self) -> list[str]:
        """Answers under a policy that was in force at no time between their sending and their
        decision.
        """
        place = {r.digest: at for at, r in enumerate(self.reloads)}
        ends_s = [r.seen_s for r in self.reloads[1:]] + [float("inf")]
        wrong = []
        for sent, decided, digest in self.answers:
            at = place.get(digest)
            if at is None or self.reloads[at].put_s > decided or ends_s[at] < sent:
                wrong.append(f"{digest[:16]} at {sent:.2f}")
        return wrong

    def growth(self) -> float:
        """Fitted growth of memory after the warm-up, as a share of what it was then."""
        start = self.memory[0][0] + WARM_UP * (self.memory[-1][0] - self.memory[0][0])
        seconds, size = np.array([m for m in self.memory if m[0] >= start], dtype=float).T
        slope = np.polyfit(seconds - seconds[0], size, 1)[0]
        return float(slope * (seconds[-1] - seconds[0]) / size[0])

    def failures(self) -> list[str]:
        """What speaks against the server."""
        found = [f"errors: {self.errors[:3]}"] if self.errors else []
        found += (
            [f"answers under a policy not in force: {stale[:3]}"] if (stale := self.stale()) else []
        )
        found += [f"memory grew by {self.growth():.1%}"] if self.growth() > MOST_GROWTH else []
        return found

    def lines(self) -> list[str]:
        """For people."""
        mb = [size / 2**20 for _, size in self.memory]
        taken_s = [r.seen_s - r.put_s for r in self.reloads[1:]]
        return [
            f"{len(self.answers)} answers streamed in "
            f"{self.memory[-1][0] - self.memory[0][0]:.0f} s, {len(self.errors)} errors",
            f"{len(taken_s)} policies put in place, each taken over before the next (median "
            f"{statistics.median(taken_s):.2f} s, longest {max(taken_s):.2f} s)",
            f"{len({a[2] for a in self.answers})} hashes in the answers, {len(self.stale())} "
            "answers under a policy not in force",
            f"memory {mb[0]:.0f} MB at the start, {mb[-1]:.0f} MB at the end, at most "
            f"{max(mb):.0f} MB; fitted growth after the first third {self.growth():+.2%} (flat: "
            f"at most {MOST_GROWTH:.0%})",
        ]


def variants(policy: Policy, count: int) -> list[Policy]:
    """Policies that all differ in one threshold, from a tenth of it to ten times as much, up and
    down.
    """
    name = next(n for n in policy.taxonomy.names if policy.category(n).may_emit)
    plain = replace(policy, promises=())
    factors = 10 ** np.sin(np.arange(count) / 7.0)
    base = min(plain.category(name).threshold, 1e6) or 0.01
    return [
        plain.with_thresholds({name: float(base * f * (1 + n * 1e-6))})
        for n, f in enumerate(factors, 1)
    ]


async def _client(url: str, model: str, number: int, report: Report) -> None:
    """One client: streams answer after answer until it is over."""
    asked = number
    async with httpx.AsyncClient(base_url=url, timeout=MOST_S, trust_env=False) as client:
        while not report.over:
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


async def _replace(
    url: str, file: Path, policies: Sequence[Policy], seconds: float, report: Report
) -> None:
    """Put one policy after the other in place, by renaming, evenly over the time if the server is
    quick enough.
    """
    start = time.monotonic()
    async with httpx.AsyncClient(base_url=url, timeout=MOST_S, trust_env=False) as client:
        for at, policy in enumerate(policies, start=1):
            await asyncio.sleep(
                max(0.0, start + seconds * at / (len(policies) + 1) - time.monotonic())
            )
            report.reloads.append(Reload(digest=policy_digest(policy), put_s=time.monotonic()))
            await asyncio.to_thread(write_policy, file, policy)
            if not await _taken_over(client, report.reloads[-1], report):
                report.errors.append(f"policy {at} was not taken over within {MOST_S:g} s")
                break
    await asyncio.sleep(max(0.0, start + seconds - time.monotonic()))
    report.over = True


async def _taken_over(client: httpx.AsyncClient, reload: Reload, report: Report) -> bool:
    """Wait until the server's metrics name the policy as the one in force."""
    while time.monotonic() < reload.put_s + MOST_S:
        try:
            lines = (await client.get("/metrics")).text.splitlines()
        except httpx.HTTPError as e:
            report.errors.append(f"metrics: {type(e).__name__} {e}")
            continue
        if any(line.startswith("demur_policy_info{") and reload.digest in line for line in lines):
            reload.seen_s = time.monotonic()
            return True
        await asyncio.sleep(LOOK_S)
    return False


async def _weigh(process: psutil.Process, report: Report) -> None:
    while not report.over:
        report.memory.append((time.monotonic(), process.memory_info().rss))
        await asyncio.sleep(0.25)


async def crowd(
    url: str, model: str, pid: int, file: Path, given: tuple[int, float, int]
) -> Report:
    """Load a server without keys. file: its policy, in place; given: clients, seconds,
    replacements.
    """
    clients, seconds, replacements = given
    now = read_policy(file)
    report = Report(reloads=[Reload(digest=policy_digest(now), put_s=0.0, seen_s=0.0)])
    await asyncio.gather(
        *(_client(url, model, n * 1000, report) for n in range(clients)),
        _replace(url, file, variants(now, replacements), seconds, report),
        _weigh(psutil.Process(pid), report),
    )
    return report


def main() -> None:
    """Serve a run in a process of its own and load it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--replacements", type=int, default=500)
    parser.add_argument("--backend", choices=("hf", "gateway", "vllm"), default="hf")
    parser.add_argument(
        "--vllm", type=Path, help="Python of an environment with vLLM, for the other two back ends"
    )
    told = parser.parse_args()
    import servers  # beside this file, whose directory is on the path of a program only

    with tempfile.TemporaryDirectory() as root, ExitStack() as stack:
        folder = Path(root) / "policies"
        folder.mkdir()
        shutil.copy(told.run / "calibrate" / "policy.json", folder / "policy.json")
        backend = "" if told.backend == "hf" else f'[backend]\nmodel = "{servers.MODEL}"\n'
        more = f"reload_s = {RELOAD_S}\n{backend}"
        words = servers.serve_words(told.run, folder, Path(root) / "serve.toml", more)
        words += ["--backend", told.backend]
        if told.backend != "hf":
            plug_in = folder if told.backend == "vllm" else None
            served = servers.vllm(told.vllm, RunFolder(told.run).model, plug_in)
            words += ["--url", stack.enter_context(served)[0]]
        log = Path(root) / "log"
        with servers.demur(words, log=log) as (url, server):
            given = (told.clients, told.seconds, told.replacements)
            report = asyncio.run(
                crowd(url, servers.MODEL, server.pid, folder / "policy.json", given)
            )
        events = [json.loads(line) for line in log.open()]
    reasons = Counter(e["reason"] for e in events if e["level"] == "error" and "reason" in e)
    here = sum(e["event"].startswith("the plug-in does not hold") for e in events)
    print(f"{told.clients} clients, backend {told.backend}")
    print(
        "\n".join(
            [*report.lines(), *report.failures(), *(f"log: {n} x {r}" for r, n in reasons.items())]
        )
    )
    if told.backend == "vllm":
        print(
            f"{here} of them decided in two calls: the plug-in had not seen that version of the "
            "policy"
        )
    sys.exit(bool(report.failures() or server.returncode))


if __name__ == "__main__":
    main()
