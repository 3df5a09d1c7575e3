"""What a refusal costs in service: the operator's own text, or one that the model writes.

    python bench/refusal_cost.py [--run RUN] [--prompts 16] [--tokens 24] [--rounds 3]

Every prompt is refused, through demur's in-process back end, by 1 client and by 16 at once: with a
template, and with a refusal of the model's own of at most `tokens` tokens (24 are about twenty
words). Beside it, what transformers' own `generate` takes for the same texts, one prompt after
another. With --run, a finished run, it is the run's model and prompts of its test split, and the
same is asked of `demur serve` too, by one client, with HTTP and JSON. Without, the random 8-layer
Llama of bench/scoring.py with its 128,256 tokens, which never ends by itself. One thread;
CPU-seconds of the process that serves, the kinds in turn, medians over the rounds. Forward passes
are counted, and positions read.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psutil
import torch

import servers
from demur.core.policy import GENERATE, CategoryPolicy, Policy
from demur.core.ports import Prompt
from demur.core.serving import Sampling, ServeRequest
from demur.core.taxonomy import Category, Taxonomy, single
from demur.engines.hf.engine import HfEngine
from demur.engines.inprocess.backend import HfBackend
from demur.engines.inprocess.limits import BackendLimits
from demur.store.policies.policy_file import write_policy
from demur.store.rows import read_examples
from demur.store.run import RunFolder
from scoring import make_checkpoint, make_prompts

CLIENTS = (1, 16)
KINDS = {"template": "I can't help with that.", "generated": GENERATE}  # on_refuse
TARGET = 5.0


@dataclass
class Cost:
    """Of one way to refuse all prompts."""

    cpu_s: list[float] = field(default_factory=list)
    passes: int = 0  # forward passes of the network, in one round
    read: int = 0  # rows of prompts that they read
    positions: int = 0  # rows x columns
    written: int = 0  # tokens after the control token


def load(folder: Path) -> tuple[HfEngine, Taxonomy]:
    """A checkpoint and its taxonomy; without demur.json beside it, that of bench/scoring.py."""
    described = folder / "demur.json"
    if not described.exists():
        return HfEngine(model=folder, tokens=single().tokens), single()
    taxonomy = json.loads(described.read_text(encoding="utf-8"))["taxonomy"]
    categories = tuple(Category(**c) for c in taxonomy["categories"])
    made = Taxonomy(
        name=taxonomy["name"], respond_token=taxonomy["respond_token"], categories=categories
    )
    return HfEngine(model=folder, tokens=made.tokens), made


def always_refuse(taxonomy: Taxonomy, engine: HfEngine, on_refuse: str) -> Policy:
    """A policy that refuses everything with its first category."""
    forced = CategoryPolicy(override="force", on_refuse=on_refuse)
    rest = (CategoryPolicy(),) * (len(taxonomy.categories) - 1)
    return Policy(
        name="refuse",
        taxonomy=taxonomy,
        rule="heaviest",
        categories=(forced, *rest),
        fingerprint=engine.fingerprint,
    )


async def serve(backend: HfBackend, asks: list[ServeRequest], clients: int) -> int:
    """Every ask by one of the clients; each sends its next when it has read its last. Returns
    tokens written.
    """
    waiting, written = iter(asks), 0

    async def client() -> None:
        nonlocal written
        for ask in waiting:
            reply = await backend.open(ask)
            async for part in reply.parts:
                written += part.tokens

    await asyncio.gather(*(client() for _ in range(clients)))
    return written


def by_generate(engine: HfEngine, prompts: list[Prompt], tokens: int) -> int:
    """transformers' own generate after a forced refusal token, one prompt after another. Returns
    tokens written.
    """
    written = 0
    for prompt in prompts:
        ids = torch.tensor([[*engine.encoder.prompt(prompt), engine.encoder.token_ids[1]]])
        with torch.inference_mode():
            whole = engine.network.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=tokens,
                eos_token_id=list(engine.rules.stops),
                pad_token_id=engine.filler,
                suppress_tokens=list(engine.rules.banned),
            )
        written += whole.shape[1] - ids.shape[1]
    return written


def measured(cost: Cost, engine: HfEngine, work: Callable[[], int]) -> None:
    """Add one round of `work` to its cost."""
    shapes: list[tuple[int, int]] = []

    def note(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        shapes.append(tuple((args[0] if args else kwargs["input_ids"]).shape))

    handle = engine.network.register_forward_pre_hook(note, with_kwargs=True)
    started = time.process_time()
    cost.written = work()
    cost.cpu_s.append(time.process_time() - started)
    handle.remove()
    cost.passes, cost.positions = len(shapes), sum(rows * width for rows, width in shapes)
    cost.read = sum(rows for rows, width in shapes if width > 1)


def run(folder: Path, prompts: list[Prompt], given: argparse.Namespace) -> dict[str, Cost]:
    """All ways in turn, `rounds` times."""
    engine, taxonomy = load(folder)
    backend = HfBackend(engine, BackendLimits(threads=1))
    sampling = Sampling(temperature=0.0, max_tokens=given.tokens)
    policies = {kind: always_refuse(taxonomy, engine, text) for kind, text in KINDS.items()}
    asks = {
        kind: [
            ServeRequest(messages=p, policy=policy, policy_digest="", sampling=sampling)
            for p in prompts
        ]
        for kind, policy in policies.items()
    }
    _served(backend, asks["generated"][:2], 2)  # warm up
    costs = {f"{kind}, {clients} clients": Cost() for clients in CLIENTS for kind in KINDS} | {
        "model.generate": Cost()
    }
    for _ in range(given.rounds):
        for clients in CLIENTS:
            for kind in KINDS:
                cost = costs[f"{kind}, {clients} clients"]
                measured(cost, engine, partial(_served, backend, asks[kind], clients))
        measured(
            costs["model.generate"], engine, partial(by_generate, engine, prompts, given.tokens)
        )
    asyncio.run(backend.close())
    return costs


def _served(backend: HfBackend, asks: list[ServeRequest], clients: int) -> int:
    return asyncio.run(serve(backend, asks, clients))


def by_server(
    run: RunFolder, prompts: list[Prompt], given: argparse.Namespace
) -> dict[str, list[float]]:
    """CPU-seconds of `demur serve` for all prompts, one after the other, by kind and round."""
    engine, taxonomy = load(run.model)
    cpu_s: dict[str, list[float]] = {kind: [] for kind in KINDS}
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "policies"
        folder.mkdir()
        for kind, text in KINDS.items():
            write_policy(
                folder / f"{kind}.json", replace(always_refuse(taxonomy, engine, text), name=kind)
            )
        words = servers.serve_words(run.root, folder, Path(root) / "serve.toml")
        with (
            servers.demur(words) as (url, process),
            httpx.Client(base_url=url, timeout=60.0, trust_env=False) as client,
        ):
            server = psutil.Process(process.pid)
            for at in range(given.rounds + 1):
                for kind, rounds in cpu_s.items():
                    before = sum(server.cpu_times()[:2])
                    for prompt in prompts:
                        said = [{"role": m.role, "content": m.content} for m in prompt]
                        body = {
                            "model": servers.MODEL,
                            "messages": said,
                            "demur": {"policy": kind},
                            "temperature": 0,
                        }
                        client.post(
                            "/v1/chat/completions", json={**body, "max_tokens": given.tokens}
                        ).raise_for_status()
                    if at:  # the first round warms up
                        rounds.append(sum(server.cpu_times()[:2]) - before)
    return cpu_s


def show_served(cpu_s: dict[str, list[float]], prompts: int) -> None:
    """The same ratio, all of HTTP counted."""
    ms = {kind: statistics.median(rounds) * 1e3 / prompts for kind, rounds in cpu_s.items()}
    each = ", ".join(f"{kind} {value:.1f} CPU-ms" for kind, value in ms.items())
    print(
        f"  demur serve, 1 client: {each}, ratio {ms['generated'] / ms['template']:5.1f}   target "
        f">= {TARGET:g}"
    )


def show(costs: dict[str, Cost], prompts: int) -> None:
    """The table, and the two ratios with their target."""
    cpu_ms = {way: statistics.median(cost.cpu_s) * 1e3 / prompts for way, cost in costs.items()}
    print(
        f"{prompts} refused requests, medians of {len(next(iter(costs.values())).cpu_s)} rounds, "
        "per request:"
    )
    for way, cost in costs.items():
        per = [value / prompts for value in (cost.read, cost.passes, cost.positions, cost.written)]
        print(
            f"  {way:22} {cpu_ms[way]:8.1f} CPU-ms {per[0]:5.2f} prefills {per[1]:6.2f} passes "
            f"{per[2]:7.1f} positions {per[3]:5.1f} tokens"
        )
    for clients in CLIENTS:
        ratio = cpu_ms[f"generated, {clients} clients"] / cpu_ms[f"template, {clients} clients"]
        print(f"  generated / template, {clients:2} clients: {ratio:5.1f}   target >= {TARGET:g}")


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--run", type=Path, help="a finished run; else a random model and random words"
    )
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument(
        "--tokens", type=int, default=24, help="at most, of a refusal that the model writes"
    )
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.run is None:
        with tempfile.TemporaryDirectory() as scratch:
            make_checkpoint(Path(scratch))
            show(run(Path(scratch), make_prompts(given.prompts), given), given.prompts)
        return
    folder = RunFolder(given.run)
    prompts = [e.prompt for e in read_examples(folder.split("test"))[: given.prompts]]
    show(run(folder.model, prompts, given), len(prompts))
    show_served(by_server(folder, prompts, given), len(prompts))


if __name__ == "__main__":
    main()
