"""What the gateway adds to vLLM's own latency, one request at a time: 32 answer tokens after about 190 prompt tokens.

    python bench/gateway.py RUN http://127.0.0.1:8000/v1 MODEL [ROUNDS]

RUN: a finished run; MODEL: the name under which vLLM serves its train/model. Every round sends one prompt to each
arm, in an order that is drawn anew; a tag at its head keeps the arms out of each other's prefix cache. Arms: vLLM
directly, the gateway's two calls, and the plug-in's one call where the server runs it with a policy named "main".
"""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx

from demur.core.errors import BackendDown
from demur.core.example import Message
from demur.core.ports import Prompt
from demur.core.serving import Ask, Sampling
from demur.engines.gateway import GatewayBackend
from demur.engines.gateway_http import Link
from demur.engines.gateway_ids import NEUTRAL, encoder_of, writing
from demur.engines.gateway_plugin import PluginBackend
from demur.store.policy_file import policy_digest, read_policy

ANSWER, PROMPT = 32, 190
LIMIT = 1.25
SAMPLING = Sampling(max_tokens=ANSWER, temperature=0.0)


class Direct:
    """One streamed call to vLLM, written like the gateway's second."""

    def __init__(self, url: str, model: str, encoder: Any) -> None:
        self._client = httpx.AsyncClient(base_url=url + "/", timeout=60.0, trust_env=False)
        self._model, self._encoder = model, encoder

    async def answer(self, messages: Prompt) -> int:
        """Tokens written after [respond]."""
        ids = [*self._encoder.prompt(messages), self._encoder.token_ids[0]]
        body = {"model": self._model, "prompt": ids, **writing(SAMPLING, ANSWER)}
        tokens = 0
        async with self._client.stream("POST", "completions", json=body) as response:
            async for line in response.aiter_lines():
                if line.startswith("data: {"):
                    tokens += len(json.loads(line[6:])["choices"][0]["token_ids"])
        return tokens


class Behind:
    """A backend of ours, that answers everything."""

    def __init__(self, backend: GatewayBackend, ask: Ask) -> None:
        self._backend, self._ask = backend, ask

    async def answer(self, messages: Prompt) -> int:
        """Tokens written after the control token."""
        reply = await self._backend.open(replace(self._ask, messages=messages))
        return sum([part.tokens async for part in reply.parts])


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


async def measure(run: Path, url: str, model: str, rounds: int) -> None:
    """Print the median latency of each arm, and its ratio to vLLM's own."""
    draw = random.Random(0)
    policy = read_policy(run / "calibrate" / "policy.json")
    never = policy.with_thresholds(dict.fromkeys(policy.taxonomy.names, float("inf")))
    assert policy.fingerprint is not None
    folder = str(run / "train" / "model")
    fields: dict[str, Any] = {
        "link": Link(url=url),
        "model": model,
        "tokenizer": folder,
        "declared": policy.fingerprint,
    }
    encoder, _ = encoder_of(folder, policy.fingerprint, keep_history=True)
    ask = Ask(messages=(), policy=never, policy_digest=policy_digest(policy), sampling=SAMPLING)
    gateway, plugin = GatewayBackend(**fields), PluginBackend(**fields)
    # A small model's answers end early, each at another length: here all arms write on to the last token.
    NEUTRAL["ignore_eos"] = True
    gateway._end_of_turn = plugin._end_of_turn = None
    await gateway.ready()
    arms: dict[str, Direct | Behind] = {"direct": Direct(url, model, encoder), "gateway": Behind(gateway, ask)}
    try:
        await plugin.ready()
        named = replace(never, name="main")
        digest = policy_digest(replace(policy, name="main"))
        arms["plug-in"] = Behind(plugin, replace(ask, policy=named, policy_digest=digest))
    except BackendDown as e:
        print(f"no plug-in: {e.message}")
    taken_s: dict[str, list[float]] = {name: [] for name in arms}
    texts = prompts(run, encoder, draw)
    for at in range(rounds + 3):
        for name in draw.sample(list(arms), len(arms)):
            text = f"{draw.getrandbits(40):x} {texts[at % len(texts)]}"
            start = time.perf_counter()
            tokens = await arms[name].answer((Message(role="user", content=text),))
            assert tokens == ANSWER, f"{name} wrote {tokens} tokens"
            if at >= 3:  # the first rounds compile
                taken_s[name].append(time.perf_counter() - start)
    await gateway.close()
    await plugin.close()
    direct_s = statistics.median(taken_s["direct"])
    for name, values in taken_s.items():
        ratio = statistics.median(values) / direct_s
        paired = statistics.median(v / d for v, d in zip(values, taken_s["direct"], strict=True))
        print(f"{name:8} median {1e3 * statistics.median(values):7.1f} ms  {ratio:.3f}x  (by round {paired:.3f}x)")
        if name == "gateway":
            print("within" if ratio <= LIMIT else "ABOVE", f"the limit of {LIMIT}x")


if __name__ == "__main__":
    asyncio.run(measure(Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]) if len(sys.argv) > 4 else 40))
