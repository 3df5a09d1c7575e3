"""Gateway and plug-in in front of a real vLLM server on the CPU: the same decisions, the same
greedy texts.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import replace

import numpy as np
import pytest

from demur.base.errors import BackendDown, BackendError, EngineError
from demur.core.decision import decide_many
from demur.core.midway.monitor import AnswerSampling, Monitor, first_stop
from demur.core.policy import CategoryPolicy, Policy, natural
from demur.core.serving import Sampling, ServeRequest
from demur.core.taxonomy import coconot
from demur.engines.hf.engine import HfEngine
from demur.engines.remote.chat_backend import OpenAiBackend
from demur.engines.remote.upstream import UpstreamOptions
from demur.engines.vllm.plugin_backend import PluginBackend
from demur.engines.vllm.two_call_backend import TwoCallBackend
from demur.store.policies.policy_file import policy_digest
from tests.builders import undoubted
from tests.engines.checkpoints import make_checkpoint, user
from tests.engines.vllm_parts import ENVIRONMENT, GATE, needs_vllm, write_policies

pytestmark = needs_vllm

TOKENS = coconot().tokens
PROMPTS = [
    user(f"{text} {n}")
    for n in range(5)
    for text in ("What is the capital of France?", "Hi", "A poem, please.")
]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
START_S = 300.0
WATCHED = AnswerSampling(most_tokens=12, temperature=0.0)  # as `ask` has them written


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    checkpoint = make_checkpoint(tmp_path_factory.mktemp("checkpoint") / "model", "llama-wide")
    return HfEngine(model=checkpoint, tokens=TOKENS)


@pytest.fixture(scope="module")
def policies(engine):
    """By name: each refuses some and answers others. A random model leaves its mass elsewhere:
    never in doubt.
    """
    logp_NC = engine.logp(PROMPTS)
    heaviest_N = np.exp(logp_NC[:, 1:].max(axis=1))
    made = {}
    for name, level, text in (
        ("low", 0.2, "generate"),
        ("middle", 0.5, "generate"),
        ("texts", 0.5, "No, thank you."),
    ):
        categories = tuple(
            CategoryPolicy(threshold=float(np.quantile(heaviest_N, level)), on_refuse=text)
            for _ in TOKENS[1:]
        )
        made[name] = Policy(
            name=name,
            taxonomy=coconot(),
            rule="heaviest",
            categories=categories,
            fingerprint=engine.fingerprint,
        )
    made["natural"] = natural(coconot(), engine.fingerprint)
    made |= watching(engine)
    return {name: undoubted(policy) for name, policy in made.items()}


def watching(engine):
    """Policies that answer, and whose monitors stop some of the answers."""
    traces = [one.logp_TC for one in engine.watched(PROMPTS, WATCHED)]
    peak_NK = np.array([trace[:, 1:].max(axis=0) for trace in traces])
    made = {}
    for n, level in enumerate((0.5, 0.8, 0.95)):
        thresholds = np.exp(np.quantile(peak_NK, level, axis=0) + 1e-3)
        made[f"watched-{n}"] = Policy(
            name=f"watched-{n}",
            taxonomy=coconot(),
            rule="heaviest",
            categories=tuple(
                CategoryPolicy(on_refuse="No." if k == 4 else "generate") for k in range(5)
            ),
            fingerprint=engine.fingerprint,
            monitor=Monitor(thresholds=tuple(thresholds.tolist()), answers=WATCHED, held_back=0),
        )
    return made


@pytest.fixture(scope="module")
def url(engine, policies, tmp_path_factory):
    folder = write_policies(tmp_path_factory.mktemp("policies"), policies)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = (
        f"--model {engine.model} --served-model-name tiny --dtype float32 --enforce-eager "
        "--block-size 32"
    ).split()
    words += ["--max-model-len", "192"]
    words += (
        f"--host 127.0.0.1 --port {port} --logits-processors {GATE} --generation-config vllm"
    ).split()
    log = tmp_path_factory.mktemp("vllm") / "log"
    with log.open("w") as file:
        server = subprocess.Popen(
            [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *words],
            env={**os.environ, **ENVIRONMENT, "DEMUR_POLICIES": str(folder)},
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_for(f"http://127.0.0.1:{port}/health", server, log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


def wait_for(address, server, log):
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        assert server.poll() is None, log.read_text()[-3000:]
        try:
            with urllib.request.urlopen(address, timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise AssertionError(f"vLLM did not start within {START_S:g} s: {log.read_text()[-3000:]}")


def backends(url, engine):
    options = UpstreamOptions(url=url, decide_s=180.0, first_token_s=180.0, stall_s=180.0)
    fields = {"upstream": options, "model": "tiny", "declared": engine.fingerprint}
    tokenizer = str(engine.model)
    return (
        TwoCallBackend(**fields, tokenizer=tokenizer),
        PluginBackend(**fields, tokenizer=tokenizer),
        OpenAiBackend(**fields),
    )


def ask(prompt, policy, stored=None, **fields):
    sampling = Sampling(max_tokens=12, temperature=0.0)
    digest = policy_digest(stored or policy)
    return ServeRequest(
        messages=prompt, policy=policy, policy_digest=digest, sampling=sampling, **fields
    )


async def answered(backend, asked):
    reply = await backend.open(asked)
    parts = [part async for part in reply.parts]
    finish = parts[-1].finish if parts else None
    return reply, ("".join(p.text for p in parts), sum(p.tokens for p in parts), finish)


def with_all(url, engine, work):
    async def run():
        made = backends(url, engine)
        try:
            return await work(*made)
        finally:
            for backend in made:
                await backend.close()

    return asyncio.run(run())


def test_gateway_and_plugin_decide_as_decide_many_and_write_the_same_greedy_text(
    url, engine, policies
):
    logp_NC = engine.logp(PROMPTS)
    moved = policies["low"].with_thresholds({"safety": 0.0})
    plain = [p for p in policies.values() if p.monitor is None]
    cases = [(p, p) for p in plain] + [(moved, policies["low"])]

    async def work(gateway, plugin, _):
        return [
            [(await answered(b, ask(prompt, p, stored))) for b in (gateway, plugin)]
            for p, stored in cases
            for prompt in PROMPTS
        ]

    choices = []
    for at, ((left, left_text), (right, right_text)) in enumerate(with_all(url, engine, work)):
        n, (policy, _) = at % len(PROMPTS), cases[at // len(PROMPTS)]
        np.testing.assert_allclose(left.logp_C, logp_NC[n], atol=1e-4)
        np.testing.assert_allclose(right.logp_C, logp_NC[n], atol=1e-4)
        if abs(left.decision.margin) > 1e-4:
            assert (
                left.decision.column
                == right.decision.column
                == decide_many(policy, logp_NC[[n]]).choice_N[0]
            )
            assert left_text == right_text
            choices.append(left.decision.choice)
    assert {"respond"} < set(choices)
    assert len(choices) > 0.9 * len(cases) * len(PROMPTS)


def test_gateway_and_plugin_stop_where_the_scores_do_and_write_the_same_refusal(
    url, engine, policies
):
    watched = [policy for name, policy in policies.items() if name.startswith("watched")]
    traces = [one.logp_TC for one in engine.watched(PROMPTS, WATCHED)]

    async def work(gateway, plugin, _):
        return [
            [[part async for part in (await b.open(ask(p, w))).parts] for b in (gateway, plugin)]
            for w in watched
            for p in PROMPTS
        ]

    stops = []
    for at, pair in enumerate(with_all(url, engine, work)):
        policy, trace = watched[at // len(PROMPTS)], traces[at % len(PROMPTS)]
        expected = first_stop(policy.monitor, trace)
        found = [
            (
                next((p.stop for p in parts if p.stop), None),
                "".join(p.text for p in parts),
                "".join(p.refusal for p in parts),
                parts[-1].finish,
            )
            for parts in pair
        ]
        assert found[0] == found[1]
        assert found[0][0] == expected
        stops.append(expected is not None)
    assert 0.1 < np.mean(stops) < 0.9


def test_a_schema_comes_after_the_decision_and_a_bad_schema_is_the_callers(url, engine, policies):
    schema = {
        "type": "object",
        "properties": {"a": {"enum": ["x"]}},
        "required": ["a"],
        "additionalProperties": False,
    }
    everyone = tuple(replace(c, override="suppress") for c in policies["low"].categories)
    free = replace(policies["low"], categories=everyone)

    async def work(gateway, plugin, _):
        _, (text, _, _) = await answered(gateway, ask(PROMPTS[0], free, json_schema=schema))
        with pytest.raises(EngineError, match="refuses") as caught:
            await gateway.open(ask(PROMPTS[0], free, json_schema={"type": "nonsense"}))
        # The plug-in's own policies are not asked: a grammar takes the two calls.
        _, (same, _, _) = await answered(plugin, ask(PROMPTS[0], free, json_schema=schema))
        return text, same, caught.value

    text, same, error = with_all(url, engine, work)
    assert text == same
    assert text.lstrip().startswith("{")
    assert not isinstance(error, BackendError)


@pytest.mark.parametrize("fields", [{"json_schema": {}}, {"tools": (TOOL,), "tool_choice": "f"}])
def test_no_answer_whose_scores_a_grammar_masks_goes_unwatched(url, engine, policies, fields):
    # the lowest threshold stops every answer at its first token
    policy = policies["watched-0"]
    monitor = replace(policy.monitor, thresholds=(1e-30,) * 5)

    async def work(gateway, plugin, _):
        for backend in (gateway, plugin):
            with pytest.raises(EngineError, match="masks the scores"):
                await backend.open(
                    ask(PROMPTS[0], replace(policy, monitor=monitor), policy, **fields)
                )

    with_all(url, engine, work)


def test_a_version_that_the_plugin_does_not_hold_is_decided_here(url, engine, policies, caplog):
    # refuses everything
    other = policies["low"].with_thresholds(dict.fromkeys(coconot().names, 0.0))

    async def work(gateway, plugin, _):
        return [await answered(b, ask(p, other)) for p in PROMPTS[:3] for b in (gateway, plugin)]

    found = with_all(url, engine, work)
    for (left, left_text), (right, right_text) in zip(found[::2], found[1::2], strict=True):
        assert left.decision.refuses
        assert left.decision.column == right.decision.column
        assert left_text == right_text
    assert "does not hold policy 'low'" in caplog.text


def test_a_request_that_was_decided_already_is_answered_though_the_plugin_would_refuse(
    url, engine, policies
):
    strict = policies["low"].with_thresholds(dict.fromkeys(coconot().names, 0.0))

    async def work(_gateway, plugin, _):
        return await answered(plugin, ask(PROMPTS[0], strict).under(strict.passing()))

    reply, (_, _, finish) = with_all(url, engine, work)
    assert reply.decision.outcome == "answer"
    assert finish


def test_a_plugin_that_decides_otherwise_is_not_believed(url, engine, policies):
    async def work(_gateway, plugin, _):
        # The right digest, yet another policy on this side: the server's token is not the one
        # decided here.
        other = policies["low"].with_thresholds(dict.fromkeys(coconot().names, 0.0))
        locked = replace(other, categories=tuple(replace(c, locked=True) for c in other.categories))
        row = int(np.argmin(engine.logp(PROMPTS)[:, 1:].max(axis=1)))
        with pytest.raises(BackendDown, match="decided otherwise"):
            await plugin.open(ask(PROMPTS[row], locked, policies["low"]))

    with_all(url, engine, work)


def test_the_strict_dialect_continues_on_vllm_as_the_gateway_does(url, engine, policies):
    forced = tuple(
        replace(c, override="force" if n == 3 else None)
        for n, c in enumerate(policies["low"].categories)
    )
    safety = replace(policies["low"], categories=forced)

    async def work(gateway, _, strict):
        return [
            [(await answered(b, ask(p, safety)))[1] for b in (gateway, strict)] for p in PROMPTS[:4]
        ]

    for left, right in with_all(url, engine, work):
        assert left[0] == right[0]
        assert left[2] == right[2]
