"""What the gateway adds to vLLM's own latency, one request at a time: 32 answer tokens after about
190 prompt tokens.

    python bench/gateway.py RUN --vllm .venv-vllm/bin/python [--rounds 40]

RUN: a finished run; --vllm: the Python of an environment with vLLM, in which a server is started.
Every round sends one prompt to each arm, in an order that is drawn anew; a tag at its head keeps
the arms out of each other's prefix cache. Arms: vLLM directly, asked in ids; the gateway's two
calls, in this process; the same behind `demur serve`, asked in OpenAI's protocol; and, where the
server runs the plug-in (--plug-in), one call, in this process and behind `demur serve`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import httpx

import servers
from demur.cli.main import main as demur
from demur.core.example import Message
from demur.core.policy import Policy
from demur.core.ports import Prompt
from demur.core.serving import Sampling, ServeRequest
from demur.engines.remote.upstream import UpstreamOptions
from demur.engines.vllm import two_call_backend as gateway_module
from demur.engines.vllm.completions_api import NEUTRAL, encoder_of, writing_fields
from demur.engines.vllm.plugin_backend import PluginBackend
from demur.engines.vllm.two_call_backend import TwoCallBackend
from demur.store.policies.policy_file import policy_digest, read_policy, write_policy
from demur.store.run import RunFolder

ANSWER, PROMPT = 32, 190
LIMIT = 1.25
WARM_UPS = 3  # rounds that compile
SAMPLING = Sampling(max_tokens=ANSWER, temperature=0.0)


class Arm(Protocol):
    """A way to an answer."""

    async def answer(self, messages: Prompt) -> int:
        """Tokens written."""
        ...


def write_to_the_last_token() -> None:
    """A small model's answers end early, each at another length: here all arms write on."""

    def without_an_end(*args: Any, **named: Any) -> Any:
        return encoder_of(*args, **named)[0], None

    NEUTRAL["ignore_eos"] = True
    gateway_module.encoder_of = without_an_end


class Direct:
    """One streamed call to vLLM, written like the gateway's second."""

    def __init__(self, url: str, model: str, encoder: Any) -> None:
        self._client = httpx.AsyncClient(base_url=url + "/", timeout=60.0, trust_env=False)
        self._model, self._encoder = model, encoder

    async def answer(self, messages: Prompt) -> int:
        """Tokens written after [respond]."""
        ids = [*self._encoder.prompt(messages), self._encoder.token_ids[0]]
        body = {"model": self._model, "prompt": ids, **writing_fields(SAMPLING, ANSWER)}
        tokens = 0
        async with self._client.stream("POST", "completions", json=body) as response:
            async for line in response.aiter_lines():
                if line.startswith("data: {"):
                    tokens += len(json.loads(line[6:])["choices"][0]["token_ids"])
        return tokens


class Behind:
    """A backend of ours, that answers everything."""

    def __init__(self, backend: TwoCallBackend, ask: ServeRequest) -> None:
        self._backend, self._ask = backend, ask

    async def answer(self, messages: Prompt) -> int:
        """Tokens written after the control token."""
        reply = await self._backend.open(replace(self._ask, messages=messages))
        return sum([part.tokens async for part in reply.parts])


class Served:
    """One streamed request to `demur serve`."""

    def __init__(self, url: str) -> None:
        self._client = httpx.AsyncClient(base_url=url, timeout=60.0, trust_env=False)

    async def answer(self, messages: Prompt) -> int:
        """Tokens written, by the server's own count."""
        said = [{"role": m.role, "content": m.content} for m in messages]
        body = {
            "model": servers.MODEL,
            "messages": said,
            "max_tokens": ANSWER,
            "temperature": 0,
            "stream": True,
        }
        tokens = 0
        async with self._client.stream(
            "POST", "/v1/chat/completions", json={**body, "stream_options": {"include_usage": True}}
        ) as response:
            async for line in response.aiter_lines():
                if line.startswith("data: {"):
                    tokens = (json.loads(line[6:]).get("usage") or {}).get(
                        "completion_tokens", tokens
                    )
        return tokens


def prompts(run: Path, encoder: Any, draw: random.Random) -> list[str]:
    """Texts of about PROMPT tokens, made of the test split's requests."""
    rows = [json.loads(line) for line in (run / "data" / "test.jsonl").open(encoding="utf-8")]
    texts = [m["content"] for row in rows for m in row["messages"] if m["role"] == "user"]
    made = []
    for _ in range(40):
        text = ""
        while len(encoder.prompt([Message(role="user", content=text)])) < PROMPT:
            text += draw.choice(texts) + " "
        made.append(text)
    return made


async def measure(arms: Mapping[str, Arm], texts: list[str], rounds: int) -> dict[str, list[float]]:
    """Seconds of each answer, by arm."""
    draw = random.Random(1)
    taken_s: dict[str, list[float]] = {name: [] for name in arms}
    for at in range(rounds + WARM_UPS):
        for name in draw.sample(list(arms), len(arms)):
            text = f"{draw.getrandbits(40):x} {texts[at % len(texts)]}"
            start = time.perf_counter()
            tokens = await arms[name].answer((Message(role="user", content=text),))
            assert tokens == ANSWER, f"{name} wrote {tokens} tokens"
            if at >= WARM_UPS:
                taken_s[name].append(time.perf_counter() - start)
    return taken_s


async def compare(run: RunFolder, policy: Policy, urls: Mapping[str, str], rounds: int) -> None:
    """Print the median latency of each arm, and its ratio to vLLM's own. urls: of vLLM and of each
    `demur serve`.
    """
    assert policy.fingerprint is not None
    encoder, _ = encoder_of(str(run.model), policy.fingerprint, keep_history=True)
    ask = ServeRequest(
        messages=(), policy=policy, policy_digest=policy_digest(policy), sampling=SAMPLING
    )
    fields: dict[str, Any] = {
        "upstream": UpstreamOptions(url=urls["direct"]),
        "model": servers.MODEL,
        "tokenizer": str(run.model),
        "declared": policy.fingerprint,
    }
    backends: dict[str, TwoCallBackend] = {"gateway": TwoCallBackend(**fields)}
    if "vllm" in urls:
        backends["vllm"] = PluginBackend(**fields)
    arms: dict[str, Arm] = {"direct": Direct(urls["direct"], servers.MODEL, encoder)}
    for name, backend in backends.items():
        arms |= {name: Behind(backend, ask), f"{name}, served": Served(urls[name])}
    taken_s = await measure(arms, prompts(run.root, encoder, random.Random(0)), rounds)
    for backend in backends.values():
        await backend.close()
    direct_s = taken_s["direct"]
    for name, values in taken_s.items():
        ratio = statistics.median(values) / statistics.median(direct_s)
        paired = statistics.median(v / d for v, d in zip(values, direct_s, strict=True))
        print(
            f"{name:16} median {1e3 * statistics.median(values):7.1f} ms  {ratio:.3f}x  (by round "
            f"{paired:.3f}x)"
        )
    print(f"target: gateway, served <= {LIMIT}x")


def main() -> None:
    """Parse the command line, start the servers, compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument(
        "--vllm", type=Path, required=True, help="Python of an environment with vLLM"
    )
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument(
        "--plug-in", action="store_true", help="let vLLM run demur's plug-in, and measure that too"
    )
    told = parser.parse_args()
    write_to_the_last_token()
    run = RunFolder(told.run)
    policy = replace(read_policy(run.policy), promises=(), sensitivities=())
    never = policy.with_thresholds(dict.fromkeys(policy.taxonomy.names, float("inf")))
    with tempfile.TemporaryDirectory() as root, ExitStack() as stack:
        folder = Path(root) / "policies"
        folder.mkdir()
        write_policy(folder / "policy.json", never)
        plug_in = folder if told.plug_in else None
        urls = {"direct": stack.enter_context(servers.vllm(told.vllm, run.model, plug_in))[0]}
        backend = f'[backend]\nmodel = "{servers.MODEL}"\n'
        words = servers.serve_words(run.root, folder, Path(root) / "serve.toml", backend)
        for name in ("gateway", "vllm") if told.plug_in else ("gateway",):
            served = servers.demur(
                [*words, "--backend", name, "--url", urls["direct"]], program=(__file__,)
            )
            urls[name] = stack.enter_context(served)[0]
        asyncio.run(compare(run, never, urls, told.rounds))


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:  # started by ourselves, in the place of `demur`
        write_to_the_last_token()
        demur()
    else:
        main()
