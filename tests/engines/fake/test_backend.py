"""The scripted backend: a real Backend without weights."""

import asyncio
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from demur.base.errors import BackendBusy, BackendDown, BackendTimeout, PolicyError
from demur.core.example import Message
from demur.core.policy import natural
from demur.core.serving import Backend, Sampling, ServeRequest
from demur.core.taxonomy import coconot
from demur.engines.fake.backend import FakeBackend
from demur.engines.fake.engine import FakeEngine

ENGINE = FakeEngine(
    taxonomy=coconot(), labels={"hello": None, "are you sad": "humanizing"}, sharpness=20.0
)
POLICY = natural(coconot(), ENGINE.fingerprint)
TEXT = ENGINE.branches([(Message(role="user", content="hello"),)], [[0]])[0][0].text
TOOL = {"type": "function", "function": {"name": "find", "parameters": {}}}


def ask(text="hello", policy=POLICY, **fields):
    return ServeRequest(
        messages=(Message(role="user", content=text),),
        policy=policy,
        policy_digest="sha256:0",
        **fields,
    )


async def read(backend, asked):
    reply = await backend.open(asked)
    return reply, [part async for part in reply.parts]


def answer(asked, backend=None):
    reply, parts = asyncio.run(read(backend or FakeBackend(engine=ENGINE), asked))
    return reply, "".join(p.text for p in parts), parts


def test_it_is_a_backend_and_answers_word_by_word_with_the_fake_engines_text():
    backend: Backend = FakeBackend(engine=ENGINE)
    reply, text, parts = answer(ask(), backend)
    assert (text, reply.decision.choice, parts[-1].finish) == (TEXT, "respond", "stop")
    assert sum(p.tokens for p in parts) == len(TEXT.split()) == len(parts) - 1
    np.testing.assert_array_equal(reply.logp_C, ENGINE.logp([ask().messages])[0])


def test_a_refusal_is_the_engines_own_or_silent_where_the_operator_has_a_text():
    reply, text, _ = answer(ask("are you sad"))
    assert reply.decision.choice == "humanizing"
    assert text.startswith("I'm a program")
    scripted = replace(
        POLICY, categories=tuple(replace(c, on_refuse="No.") for c in POLICY.categories)
    )
    assert answer(ask("are you sad", policy=scripted))[2] == []
    assert answer(ask(policy=scripted))[1] == TEXT


@pytest.mark.parametrize(
    ("sampling", "text", "finish"),
    [
        (Sampling(max_tokens=2), " ".join(TEXT.split()[:2]), "length"),
        (Sampling(stop=(TEXT.split()[3],)), TEXT.partition(TEXT.split()[3])[0], "stop"),
        (Sampling(), TEXT, "stop"),
    ],
)
def test_limits_and_stop_strings_end_an_answer(sampling, text, finish):
    _, written, parts = answer(ask(sampling=sampling))
    assert (written, parts[-1].finish) == (text, finish)


def test_a_schema_gives_json_and_a_required_tool_a_call():
    assert json.loads(answer(ask(json_schema={}))[1]) == {"answer": TEXT}
    _, text, parts = answer(ask(tools=(TOOL,), tool_choice="find"))
    assert (text, parts[-1].finish) == ("", "tool_calls")
    assert parts[-1].tool_calls[0]["function"]["name"] == "find"
    assert answer(ask(tools=(TOOL,), tool_choice="auto"))[1] == TEXT


@pytest.mark.parametrize(
    ("failure", "error"),
    [("down", BackendDown), ("busy", BackendBusy), ("timeout", BackendTimeout)],
)
def test_it_fails_at_open_as_told(failure, error):
    with pytest.raises(error):
        answer(ask(), FakeBackend(engine=ENGINE, failure=failure))


@pytest.mark.parametrize(("failure", "error"), [("break", BackendDown), ("stall", BackendTimeout)])
def test_it_fails_in_mid_answer_as_told(failure, error):
    async def scenario():
        backend, seen = FakeBackend(engine=ENGINE, failure=failure), []
        reply = await backend.open(ask())
        with pytest.raises(error):
            seen.extend([part.text async for part in reply.parts])
        return backend, seen

    backend, _ = asyncio.run(scenario())
    assert backend.writing == 0


def test_closing_ends_open_replies_and_readiness():
    async def scenario():
        backend = FakeBackend(engine=ENGINE)
        await backend.ready()
        reply = await backend.open(ask())
        first = await anext(reply.parts)
        assert backend.writing == 1
        await backend.close()
        with pytest.raises(BackendDown):
            await anext(reply.parts)
        with pytest.raises(BackendDown):
            await backend.ready()
        return first

    assert asyncio.run(scenario()).text == TEXT.split()[0]


def test_closing_a_reply_early_frees_its_place():
    async def scenario():
        backend = FakeBackend(engine=ENGINE)
        reply = await backend.open(ask())
        await anext(reply.parts)
        await reply.parts.aclose()
        return backend.writing

    assert asyncio.run(scenario()) == 0


def test_a_policy_of_another_model_is_refused():
    with pytest.raises(PolicyError, match="another model"):
        answer(ask(policy=natural(coconot(), FakeEngine(taxonomy=coconot(), seed=1).fingerprint)))


def test_it_needs_no_torch():
    code = "import sys, demur.engines.fake.backend; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
