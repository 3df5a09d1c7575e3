"""Tokens per CPU-second at many streams: `demur serve` in process, vLLM and llama-server, with the
same model and prompts.

    export OMP_NUM_THREADS=1
    python bench/throughput.py RUN --vllm .venv-vllm/bin/python --llama llama-server --gguf FILE

RUN: a finished run. All servers stand at once, idle but for the one that is asked; a round asks
each of them, in random order, for one answer a stream, greedily, under a policy that refuses
nothing. CPU seconds are those of the server's processes, HTTP included. vLLM and llama-server make
no decision; `demur serve` makes one for each answer. --gguf: the run's model as llama.cpp converts
it. The first round warms up. No prompt is asked twice: a server that remembers whole prompts would
not read it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import psutil

import servers
from demur.core.midway.monitor import AnswerSampling, Monitor
from demur.store.policies.policy_file import read_policy, write_policy
from demur.store.run import RunFolder


@dataclass(frozen=True, kw_only=True)
class Server:
    """A server to ask, and its process."""

    url: str  # with /v1
    process: psutil.Process

    def cpu_s(self) -> float:
        """CPU seconds so far, of all its processes."""
        family = [self.process, *self.process.children(recursive=True)]
        return sum(sum(p.cpu_times()[:2]) for p in family)


async def answer(client: httpx.AsyncClient, server: Server, text: str, tokens: int) -> int:
    """Stream one answer; the tokens written, by the server's own count."""
    body = {
        "model": servers.MODEL,
        "messages": [{"role": "user", "content": text}],
        "max_tokens": tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    written = 0
    async with client.stream("POST", f"{server.url}/chat/completions", json=body) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                usage = json.loads(line[6:]).get("usage") or {}
                written = usage.get("completion_tokens", written)
    return written


async def ask_all(server: Server, texts: list[str], tokens: int) -> tuple[int, float, float]:
    """(tokens, CPU seconds, seconds) of one answer to each text at the same time."""
    limits = httpx.Limits(max_connections=len(texts))
    async with httpx.AsyncClient(timeout=300.0, trust_env=False, limits=limits) as client:
        start, before = time.perf_counter(), server.cpu_s()
        written = await asyncio.gather(*(answer(client, server, t, tokens) for t in texts))
        return sum(written), server.cpu_s() - before, time.perf_counter() - start


def prompts(run: Path, count: int) -> list[str]:
    """Requests of the test split that are to be answered."""
    rows = [json.loads(line) for line in (run / "data" / "test.jsonl").open(encoding="utf-8")]
    texts = [r["messages"][-1]["content"] for r in rows if r["kind"] != "refusal"]
    return random.Random(0).sample(texts, min(count, len(texts)))


def start_all(given: argparse.Namespace, stack: ExitStack) -> dict[str, Server]:
    """The servers that were asked for."""
    run, folder = RunFolder(given.run), Path(stack.enter_context(TemporaryDirectory()))
    policy = replace(read_policy(run.policy), promises=(), sensitivities=())
    never = policy.with_thresholds(dict.fromkeys(policy.taxonomy.names, float("inf")))
    # Greedy answers, as `answer` asks for; a probability of exactly 1 stops nothing in practice.
    monitor = Monitor(
        thresholds=(1.0,) * len(policy.taxonomy.names),
        answers=AnswerSampling(most_tokens=given.tokens, temperature=0.0),
        held_back=min(24, given.tokens - 1),
    )
    limits, found = f"answer_tokens = {given.tokens}\n", {}
    asked = {"demur serve": never}
    if given.watched:
        asked["watched"] = replace(never, monitor=monitor)
    for name, served in asked.items():
        (folder / name).mkdir()
        write_policy(folder / name / "policy.json", served)
        # usual answers as the monitor's are: a server takes no other policy
        more = "" if served.monitor is None else f"temperature = 0.0\n[limits]\n{limits}"
        words = servers.serve_words(run.root, folder / name, folder / f"{name}.toml", more)
        url, process = stack.enter_context(servers.demur(words))
        found[name] = Server(url=f"{url}/v1", process=psutil.Process(process.pid))
    others = {}
    if given.vllm:
        others["vLLM"] = servers.vllm(given.vllm, run.model, dtype="bfloat16")
    if given.llama:
        others["llama-server"] = servers.llama(
            given.llama, given.gguf, given.streams, given.threads
        )
    for name, server in others.items():
        url, started = stack.enter_context(server)
        found[name] = Server(url=url, process=psutil.Process(started.pid))
    return found


def show(measured: Mapping[str, list[tuple[int, float, float]]]) -> None:
    """A line for each server: medians over rounds."""
    print(f"{'server':<16}{'tokens':>8}{'per CPU-s':>12}{'range':>16}{'per s':>10}")
    for name, rounds in measured.items():
        per_cpu = sorted(tokens / cpu for tokens, cpu, _ in rounds)
        per_s = statistics.median(tokens / seconds for tokens, _, seconds in rounds)
        span = f"{per_cpu[0]:.0f}-{per_cpu[-1]:.0f}"
        written = sum(tokens for tokens, _, _ in rounds)
        median = statistics.median(per_cpu)
        print(f"{name:<16}{written:>8}{median:>12.1f}{span:>16}{per_s:>10.1f}")


def main() -> None:
    """Start the servers, ask them in rounds, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--watched", action="store_true", help="a line with a monitor, too")
    parser.add_argument("--vllm", type=Path, help="Python of an environment with vLLM")
    parser.add_argument("--llama", type=Path, help="the program llama-server")
    parser.add_argument("--gguf", type=Path, help="the run's model for llama-server")
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="of llama-server")
    given = parser.parse_args()
    texts = prompts(given.run, given.streams * (given.rounds + 1))
    with ExitStack() as stack:
        found = start_all(given, stack)
        measured: dict[str, list[tuple[int, float, float]]] = {name: [] for name in found}
        draw = random.Random(1)
        for at in range(given.rounds + 1):
            asked = texts[at * given.streams :][: given.streams]
            for name in draw.sample(list(found), len(found)):
                row = asyncio.run(ask_all(found[name], asked, given.tokens))
                if at:
                    measured[name].append(row)
    show(measured)


if __name__ == "__main__":
    main()
