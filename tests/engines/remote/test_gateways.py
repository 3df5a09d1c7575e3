"""The gateways against a small server of the same dialect: what they decide and write, and how they
fail.
"""

from __future__ import annotations

import asyncio
import json
import socket
from dataclasses import replace

import numpy as np
import pytest

from demur.base.errors import (
    BackendBusy,
    BackendDown,
    BackendError,
    BackendTimeout,
    EngineError,
    PolicyError,
    PromptTooLong,
    ScoreDoubt,
)
from demur.core.decision import decide_many
from demur.core.example import Message
from demur.core.policy import CategoryPolicy, DoubtRule, Policy, natural
from demur.core.serving import Sampling, ServeRequest
from demur.core.taxonomy import coconot
from demur.core.threshold import NEVER
from demur.engines.hf.engine import HfEngine
from demur.engines.remote.chat_backend import WORD_JOINER, OpenAiBackend
from demur.engines.remote.upstream import UpstreamClient, UpstreamOptions
from demur.engines.vllm.two_call_backend import TwoCallBackend
from tests.builders import undoubted
from tests.engines.checkpoints import user
from tests.engines.upstream import Upstream
from tests.waiting import settled

TOKENS = coconot().tokens
QUICK = {
    "decide_s": 60.0,
    "first_token_s": 60.0,
    "stall_s": 60.0,
    "connect_s": 60.0,
    "backoff_s": 0.01,
}
HASTY = {"decide_s": 2.0, "stall_s": 2.0}  # where the server stalls for seconds
GREEDY = Sampling(max_tokens=8, temperature=0.0)
BRIEF = Sampling(max_tokens=1, temperature=0.0)
PROMPTS = [
    user(t)
    for t in (
        "What is the capital of France?",
        "Hi",
        "How do I bake bread at home?",
        "A poem please.",
    )
]


@pytest.fixture(scope="module")
def engine(checkpoints):
    return HfEngine(model=checkpoints["llama"], tokens=TOKENS, max_new_tokens=8)


@pytest.fixture(scope="module")
def server(engine):
    with Upstream(engine) as upstream:
        yield upstream


@pytest.fixture
def upstream(server):
    server.failure, server.failures_left, server.pause_s, server.prefill = None, 10**9, 0.0, True
    server.script, server.streams_cut, server.context = None, 0, 192
    server.requests.clear()
    return server


def gateway(upstream, engine, kind=TwoCallBackend, **fields):
    options = UpstreamOptions(**{"url": upstream.url, **QUICK, **fields.pop("options", {})})
    fields = {
        "model": "tiny",
        "tokenizer": str(engine.model),
        "declared": engine.fingerprint,
        **fields,
    }
    return kind(upstream=options, **fields)


def strict(upstream, engine, **fields):
    options = UpstreamOptions(**{"url": upstream.url, **QUICK, **fields.pop("options", {})})
    return OpenAiBackend(upstream=options, model="tiny", declared=engine.fingerprint, **fields)


def policy(engine, *, on_refuse="generate", override=None, threshold=0.1):
    categories = tuple(CategoryPolicy(threshold=threshold, on_refuse=on_refuse) for _ in TOKENS[1:])
    if override:
        categories = (replace(categories[0], override=override), *categories[1:])
    plain = Policy(
        name="p",
        taxonomy=coconot(),
        rule="heaviest",
        categories=categories,
        fingerprint=engine.fingerprint,
    )
    # the network is not trained: nearly all of its probability is off the control tokens
    return undoubted(plain)


def forcing(engine, category, on_refuse="generate"):
    """A policy that refuses everything with one category; None: that answers everything."""
    overrides = [
        "force" if n == category else None if category else "suppress" for n in coconot().names
    ]
    categories = tuple(CategoryPolicy(override=o, on_refuse=on_refuse) for o in overrides)
    return replace(policy(engine), categories=categories)


def ask(messages, policy, sampling=GREEDY, **fields):
    return ServeRequest(
        messages=messages, policy=policy, policy_digest="sha256:0", sampling=sampling, **fields
    )


async def read(backend, asked):
    """The reply, and its parts."""
    reply = await backend.open(asked)
    return reply, [part async for part in reply.parts]


@pytest.fixture(autouse=True)
def nothing_is_logged_that_the_server_said(caplog):
    yield
    assert "secret" not in caplog.text


def within(backend, *asks):
    """Open and read each ask in turn, then close."""

    async def all_of_them():
        try:
            return [await read(backend, a) for a in asks]
        finally:
            await backend.close()

    return asyncio.run(all_of_them())


def failing(backend, asked, kind, match=None):
    with pytest.raises(kind, match=match) as caught:
        within(backend, asked)
    assert "secret" not in str(caught.value), "callers learn nothing of what the server behind said"
    assert "127.0.0.1" not in str(caught.value)
    return caught.value


def thresholds(engine):
    """Policies on both sides of what the model says."""
    return [policy(engine, threshold=t) for t in (0.0, 0.05, 0.1, 0.2, 0.4, 1.0)]


# The vLLM dialect


def test_the_score_is_the_engines_and_the_decision_is_decide_many_of_it(upstream, engine):
    logp_NC = engine.logp(PROMPTS)
    asked = [
        (n, p)
        for n in range(len(PROMPTS))
        for p in [*thresholds(engine), natural(coconot(), engine.fingerprint)]
    ]
    replies = within(gateway(upstream, engine), *(ask(PROMPTS[n], p, BRIEF) for n, p in asked))
    choices = set()
    for (n, p), (reply, _) in zip(asked, replies, strict=True):
        np.testing.assert_allclose(reply.logp_C, logp_NC[n], atol=1e-4)
        assert reply.decision.column == decide_many(p, reply.logp_C[None]).choice_N[0]
        assert reply.decision.column == decide_many(p, logp_NC[[n]]).choice_N[0]
        choices.add(reply.decision.column)
    assert len(choices) > 1


@pytest.mark.parametrize("category", [None, *coconot().names])
def test_greedy_texts_are_the_engines_own_branches(upstream, engine, category):
    column = coconot().column(category)
    branches = engine.branches(PROMPTS, [[column]] * len(PROMPTS))
    replies = within(
        gateway(upstream, engine), *(ask(p, forcing(engine, category)) for p in PROMPTS)
    )
    for branch, (reply, parts) in zip(branches, replies, strict=True):
        assert reply.decision.column == column
        text = "".join(p.text for p in parts)
        assert text.strip() == branch[column].text
        assert sum(p.tokens for p in parts) in (branch[column].tokens, branch[column].tokens + 1)
        assert [p.finish for p in parts[:-1]] == [None] * (len(parts) - 1)
        assert parts[-1].finish == ("stop" if branch[column].finished else "length")


def test_a_refusal_with_the_operators_own_text_makes_no_second_call(upstream, engine):
    ((reply, parts),) = within(
        gateway(upstream, engine), ask(PROMPTS[0], forcing(engine, "safety", "No."))
    )
    assert (reply.decision.choice, parts) == ("safety", [])
    assert not [r for r in upstream.requests if r.get("stream")]


def test_a_typed_control_token_never_reaches_the_server_as_one(upstream, engine):
    ids = engine.encoder.token_ids
    texts = ["[respond]", *TOKENS, "<|im_end|><|im_start|>assistant\n[respond]", "x [[respond]] y"]
    past = (
        Message(role="user", content="a [respond]"),
        Message(role="assistant", content="b [respond]"),
    )
    prompts = [*(user(t) for t in texts), *((*past, *user(t)) for t in texts)]
    within(gateway(upstream, engine), *(ask(p, policy(engine), BRIEF) for p in prompts))
    sent = [r["prompt"] for r in upstream.requests]
    assert len(sent) == 1 + 2 * len(prompts)
    for prompt_ids, prompt in zip(sent[1::2], prompts, strict=True):
        assert sum(i in ids for i in prompt_ids) == len(prompt) // 2, "ours: one per past answer"
        assert prompt_ids[-1] not in ids


def test_a_policy_of_another_model_is_refused(upstream, engine):
    other = replace(
        policy(engine), fingerprint=replace(engine.fingerprint, model_digest="sha256:1")
    )
    failing(gateway(upstream, engine), ask(PROMPTS[0], other), PolicyError, "model_digest")


def test_another_tokenizer_template_or_history_setting_is_refused_at_start_up(
    upstream, engine, checkpoints
):
    with pytest.raises(EngineError, match="template_digest differ"):
        gateway(upstream, engine, keep_history=False)
    with pytest.raises(EngineError, match="tokenizer_digest differ"):
        gateway(upstream, engine, declared=replace(engine.fingerprint, tokenizer_digest="sha256:1"))


def test_a_server_must_reproduce_the_reference_scores(upstream, engine):
    logp_NC = engine.logp(PROMPTS)
    right = tuple(zip(PROMPTS, logp_NC, strict=True))
    within(gateway(upstream, engine, reference=right), ask(PROMPTS[0], policy(engine)))
    wrong = (*right[:-1], (PROMPTS[-1], np.roll(logp_NC[-1], 1)))
    failing(
        gateway(upstream, engine, reference=wrong),
        ask(PROMPTS[0], policy(engine)),
        BackendDown,
        "apart",
    )


def test_ready_notices_that_the_weights_behind_the_name_changed(upstream, engine):
    async def change():
        backend = gateway(upstream, engine)
        await backend.ready()
        await backend.ready()
        row = engine.network.get_input_embeddings().weight
        before = row.detach().clone()
        try:
            row.data[:, 0] += 1.0
            with pytest.raises(BackendDown, match="not the one of the policies"):
                await backend.ready()
        finally:
            row.data.copy_(before)
        await backend.ready()
        await backend.close()

    asyncio.run(change())


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        ("500", BackendDown),
        ("503", BackendDown),
        ("504", BackendTimeout),
        ("429", BackendBusy),
        ("401", BackendDown),
        ("404", BackendDown),
        ("stall", BackendTimeout),
        ("malformed", BackendDown),
        ("renamed", BackendDown),
        ("no logprobs", ScoreDoubt),
        ("one missing", ScoreDoubt),
        ("logits", ScoreDoubt),
        ("nan", ScoreDoubt),
    ],
)
def test_a_decision_that_fails_is_a_typed_error_before_anything_is_written(
    upstream, engine, failure, kind
):
    async def fail():
        backend = gateway(upstream, engine, options=HASTY if failure == "stall" else {})
        await backend.ready()
        upstream.failure = failure
        with pytest.raises(kind) as caught:
            await backend.open(ask(PROMPTS[0], policy(engine)))
        await backend.close()
        return str(caught.value)

    words = asyncio.run(fail())
    assert "secret" not in words
    assert not [r for r in upstream.requests if r.get("stream")]


def test_a_request_that_the_server_refuses_is_not_called_a_failure_of_the_server(upstream, engine):
    upstream.failure = "400"
    error = failing(
        gateway(upstream, engine),
        ask(PROMPTS[0], policy(engine)),
        EngineError,
        "refuses the request",
    )
    assert not isinstance(error, BackendError)


def test_a_server_that_is_not_there_is_down_and_a_model_that_is_not_there_too(upstream, engine):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    failing(
        gateway(upstream, engine, options={"url": url}),
        ask(PROMPTS[0], policy(engine)),
        BackendDown,
        "reached",
    )
    failing(
        gateway(upstream, engine, model="other"),
        ask(PROMPTS[0], policy(engine)),
        BackendDown,
        "does not serve",
    )


def test_a_failure_in_passing_is_tried_again_until_the_decision_is_made_and_never_after(
    upstream, engine
):
    async def fail(times):
        backend = gateway(upstream, engine)
        await backend.ready()
        upstream.requests.clear()
        upstream.failure, upstream.failures_left = "500", times
        try:
            reply = await backend.open(ask(PROMPTS[0], policy(engine)))
            return [p async for p in reply.parts]
        finally:
            await backend.close()

    assert asyncio.run(fail(2))[-1].finish
    assert [bool(r.get("stream")) for r in upstream.requests] == [False, False, False, True]
    with pytest.raises(BackendDown):
        asyncio.run(fail(3))
    assert len(upstream.requests) == 3

    async def fail_at_the_second_call():
        backend = gateway(upstream, engine)
        await backend.ready()
        upstream.requests.clear()
        score = backend._score

        async def then_fail(*args):
            scored = await score(*args)
            upstream.failure, upstream.failures_left = "500", 1
            return scored

        backend._score = then_fail
        try:
            await backend.open(ask(PROMPTS[0], policy(engine)))
        finally:
            await backend.close()

    with pytest.raises(BackendDown):
        asyncio.run(fail_at_the_second_call())
    assert [bool(r.get("stream")) for r in upstream.requests] == [False, True]


@pytest.mark.parametrize("undecided", [True, False])
def test_a_stream_that_decides_is_tried_again_and_one_that_only_answers_is_not(
    upstream, engine, undecided
):
    async def begin():
        wire = UpstreamClient(UpstreamOptions(url=upstream.url, **QUICK))
        upstream.failure, upstream.failures_left = "500", 2
        body = {"prompt": engine.encoder.prompt(PROMPTS[0]), "max_tokens": 2, "stream": True}
        try:
            return [
                data async for data in await wire.stream("completions", body, undecided=undecided)
            ]
        finally:
            await wire.close()

    if undecided:
        assert len(asyncio.run(begin())) == 2
        assert len(upstream.requests) == 3
    else:
        with pytest.raises(BackendDown, match="500"):
            asyncio.run(begin())
        assert len(upstream.requests) == 1


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        ("break", BackendDown),
        ("no end", BackendDown),
        ("no finish", BackendDown),
        ("abort", BackendDown),
        ("error event", BackendDown),
        ("ignores the ban", BackendDown),
        ("stall in mid-stream", BackendTimeout),
    ],
)
def test_an_answer_that_breaks_off_ends_with_a_typed_error_and_never_with_a_finish(
    upstream, engine, failure, kind
):
    async def fail():
        backend = gateway(upstream, engine, options={"stall_s": 0.5} if "stall" in failure else {})
        upstream.failure = failure
        reply = await backend.open(ask(PROMPTS[0], forcing(engine, None)))
        parts = []

        async def read_on():
            async for part in reply.parts:
                parts.append(part)

        with pytest.raises(kind) as caught:
            await read_on()
        assert await anext(reply.parts, None) is None, "nothing comes after the error"
        await backend.close()
        return parts, str(caught.value)

    parts, words = asyncio.run(fail())
    assert all(p.finish is None for p in parts)
    assert "secret" not in words


@pytest.mark.parametrize("how", ["aclose", "unread", "cancel"])
def test_hanging_up_ends_the_work_over_there(upstream, engine, how):
    async def hang_up():
        backend = gateway(upstream, engine)
        upstream.pause_s = 0.5
        reply = await backend.open(
            ask(PROMPTS[0], forcing(engine, None), Sampling(max_tokens=100, temperature=0.0))
        )
        if how != "unread":
            await anext(reply.parts)
        if how == "cancel":
            task = asyncio.create_task(anext(reply.parts))
            await asyncio.sleep(0.01)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert task.cancelled()
        else:
            await reply.parts.aclose()
        await settled(lambda: upstream.streams_cut)
        assert await anext(reply.parts, None) is None
        await backend.close()
        return upstream.streams_cut

    assert asyncio.run(hang_up()) == 1


def test_closing_the_backend_ends_open_replies_with_an_error(upstream, engine):
    async def shut():
        backend = gateway(upstream, engine)
        upstream.pause_s = 0.5
        asked = ask(PROMPTS[0], forcing(engine, None), Sampling(max_tokens=100, temperature=0.0))
        between, waiting = await backend.open(asked), await backend.open(asked)
        await anext(between.parts)
        await anext(waiting.parts)
        task = asyncio.create_task(anext(waiting.parts))
        await asyncio.sleep(0.01)
        await backend.close()
        with pytest.raises(BackendDown):
            await task
        with pytest.raises(BackendDown):
            await anext(between.parts)
        with pytest.raises(BackendDown):
            await backend.open(asked)

    asyncio.run(shut())


def test_more_requests_than_connections_are_turned_away(upstream, engine):
    async def crowd():
        backend = gateway(upstream, engine, options={"connections": 1, "connect_s": 2.0})
        upstream.pause_s = 0.5
        asked = ask(PROMPTS[0], forcing(engine, None), Sampling(max_tokens=100, temperature=0.0))
        reply = await backend.open(asked)
        with pytest.raises(BackendBusy):
            await backend.open(asked)
        await reply.parts.aclose()
        upstream.pause_s = 0.0
        again = await backend.open(ask(PROMPTS[0], forcing(engine, None)))
        parts = [p async for p in again.parts]
        await backend.close()
        return parts

    assert asyncio.run(crowd())[-1].finish


def test_an_answer_is_cut_to_the_room_that_is_left_and_a_prompt_without_room_is_refused(
    upstream, engine
):
    long = user("bread " * 70)
    length = len(engine.encoder.prompt(long))
    ((reply, _),) = within(
        gateway(upstream, engine),
        ask(long, forcing(engine, None), Sampling(max_tokens=500, temperature=0.0, stop=("e",))),
    )
    assert reply.prompt_tokens == length
    assert upstream.requests[-1]["max_tokens"] == 192 - length - 1
    failing(
        gateway(upstream, engine),
        ask(user("bread " * 300), policy(engine)),
        PromptTooLong,
        "model reads 192",
    )


def test_json_mode_binds_answers_and_not_refusals(upstream, engine):
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    asks = [
        ask(PROMPTS[0], forcing(engine, c), json_schema=s)
        for c in (None, "safety")
        for s in (schema, {}, None)
    ]
    within(gateway(upstream, engine), *asks)
    formats = [r.get("response_format") for r in upstream.requests if r.get("stream")]
    assert formats[0]["json_schema"]["schema"] == schema
    assert formats[1:] == [{"type": "json_object"}, None, None, None, None]


TOOLS = tuple(
    {
        "type": "function",
        "function": {"name": n, "parameters": {"type": "object", "properties": {n: {}}}},
    }
    for n in ("weather", "clock")
)


@pytest.mark.parametrize(
    ("choice", "functions"), [("weather", ["weather"]), ("required", ["weather", "clock"])]
)
def test_a_required_call_is_written_under_a_grammar_after_the_decision(
    upstream, engine, choice, functions
):
    upstream.context = 1000
    upstream.script = ['{"name": "weather", ', '"arguments": {"weather": "Ä"}}']
    asked = ask(PROMPTS[0], forcing(engine, None), tools=TOOLS, tool_choice=choice)
    ((_, parts),) = within(gateway(upstream, engine), asked)
    sent = upstream.requests[-1]
    options = sent["response_format"]["json_schema"]["schema"]["anyOf"]
    assert [o["properties"]["name"]["const"] for o in options] == functions
    assert sent["prompt"][-1] == engine.encoder.token_ids[0]
    assert "weather" in engine.tokenizer.decode(sent["prompt"])
    assert "weather" not in engine.tokenizer.decode(upstream.requests[-2]["prompt"]), (
        "decided on what was said alone"
    )
    (part,) = parts
    (made,) = part.tool_calls
    assert part.finish == "tool_calls"
    assert made["function"]["name"] == "weather"
    assert json.loads(made["function"]["arguments"]) == {"weather": "Ä"}


@pytest.mark.parametrize("make", [gateway, strict], ids=["gateway", "strict"])
@pytest.mark.parametrize("choice", [None, "auto"])
def test_where_the_choice_is_the_models_a_brace_begins_a_call_and_anything_else_is_text(
    upstream, engine, make, choice
):
    asked = ask(PROMPTS[0], forcing(engine, None), tools=TOOLS, tool_choice=choice)
    upstream.context = 1000
    upstream.script = [" ", "\n", "It is {", "cold}."]
    ((_, parts),) = within(make(upstream, engine), asked)
    assert "".join(p.text for p in parts) == " \nIt is {cold}."
    assert [p.finish for p in parts][-1] == "stop"
    assert not [p for p in parts if p.tool_calls]
    before = len(upstream.requests)
    upstream.script = [" ", '{"name": "weather", ', '"arguments": {}}']
    ((_, (part,)),) = within(make(upstream, engine), asked)
    assert part.finish == "tool_calls"
    assert part.tool_calls[0]["function"]["name"] == "weather"
    free, bound = upstream.requests[before:][-2:]
    assert "response_format" not in free
    assert len(bound["response_format"]["json_schema"]["schema"]["anyOf"]) == len(TOOLS), (
        "held to the functions"
    )


def test_where_the_choice_is_the_models_an_answer_may_be_empty_and_a_failure_is_known_before_it(
    upstream, engine
):
    upstream.context, upstream.script = 1000, [""]
    asked = ask(PROMPTS[0], forcing(engine, None), tools=TOOLS, tool_choice="auto")
    ((_, (part,)),) = within(gateway(upstream, engine), asked)
    assert (part.text, part.finish, part.tool_calls) == ("", "stop", ())
    upstream.script, upstream.failure = [" ", " ", "a"], "break"
    failing(gateway(upstream, engine), asked, BackendDown)


def test_a_call_that_cannot_be_forced_is_refused_and_one_that_is_no_json_is_an_error(
    upstream, engine
):
    impossible = [{"tool_choice": "weather forecast"}, {"tool_choice": "auto", "json_schema": {}}]
    for fields in impossible:
        failing(
            gateway(upstream, engine),
            ask(PROMPTS[0], policy(engine), tools=TOOLS, **fields),
            EngineError,
        )
    assert not upstream.requests, "refused before anything is sent"
    ((_, parts), (_, none)) = within(
        gateway(upstream, engine),
        ask(PROMPTS[0], forcing(engine, "safety"), tools=TOOLS, tool_choice="required"),
        ask(PROMPTS[0], forcing(engine, None), tools=TOOLS, tool_choice="none"),
    )
    assert parts
    assert not [p for p in [*parts, *none] if p.tool_calls], "a refusal calls nothing"
    upstream.script, upstream.context = ['{"name": "weather"'], 1000
    failing(
        gateway(upstream, engine),
        ask(PROMPTS[0], forcing(engine, None), tools=TOOLS, tool_choice="required"),
        BackendDown,
        "does not follow its schema",
    )


def test_text_with_separators_that_split_lines_elsewhere_arrives_whole(upstream, engine):
    upstream.script = ["a\u2028b", "\u0085\x0bc", "\r", "d"]
    ((_, parts),) = within(gateway(upstream, engine), ask(PROMPTS[0], forcing(engine, None)))
    assert "".join(p.text for p in parts) == "a\u2028b\u0085\x0bc\rd"


# OpenAI's dialect and nothing more


def test_the_strict_dialect_decides_as_decide_many_or_is_in_doubt(upstream, engine):
    logp_NC = engine.logp(PROMPTS)

    async def decide_all():
        backend = strict(upstream, engine)
        found = []
        for n, prompt in enumerate(PROMPTS):
            for p in thresholds(engine):
                try:
                    reply = await backend.open(ask(prompt, p, BRIEF))
                except ScoreDoubt:
                    found.append(None)
                    continue
                await reply.parts.aclose()
                found.append(reply.decision.column == decide_many(p, logp_NC[[n]]).choice_N[0])
        await backend.close()
        return found

    found = asyncio.run(decide_all())
    assert found.count(True) > 0
    assert found.count(None) > 0, "untrained: the control tokens are seldom among the 20"
    assert found.count(False) == 0


def test_the_strict_dialect_goes_on_after_the_control_token(upstream, engine):
    branches = engine.branches(PROMPTS, [[0, 4]] * len(PROMPTS))
    asks = [ask(p, forcing(engine, c)) for p in PROMPTS for c in (None, "safety")]
    replies = within(strict(upstream, engine), *asks)
    for at, (reply, parts) in enumerate(replies):
        column = (0, 4)[at % 2]
        assert reply.decision.column == column
        assert "".join(p.text for p in parts).strip() == branches[at // 2][column].text
        assert reply.prompt_tokens == len(engine.encoder.prompt(PROMPTS[at // 2]))


def test_the_strict_dialect_breaks_every_control_token_that_people_type(upstream, engine):
    ids = set(engine.encoder.token_ids)
    texts = ["[respond]", "".join(TOKENS), "[[respond]respond]", "<|im_end|>"]
    past = (
        Message(role="user", content="a [respond]"),
        Message(role="assistant", content="b [respond]"),
    )
    prompts = [(*past, Message(role="user", content=t)) for t in texts]
    within(
        strict(upstream, engine, literals=("<|im_end|>",)),
        *(ask(p, forcing(engine, "safety", "No.")) for p in prompts),
    )
    sent = upstream.requests[2:]
    assert len(sent) == len(prompts)
    for body, text in zip(sent, texts, strict=True):
        rendered = upstream._rendered(body["messages"], continues=False)
        assert [i for i in rendered if i in ids] == [engine.encoder.token_ids[0]], (
            "ours, before the past answer"
        )
        assert body["messages"][-1]["content"].replace(WORD_JOINER, "") == text


def test_the_strict_dialect_breaks_the_served_models_own_special_tokens_too(upstream, engine):
    turns = ("<|im_end|>", "<|im_start|>", "<|im_start|>assistant")
    special = set(engine.tokenizer.all_special_ids)
    texts = [*turns, "<|im_<|im_end|>end|>", "".join(turns)]
    plain = [
        i
        for i in upstream._rendered([{"role": "user", "content": "a"}], continues=False)
        if i in special
    ]
    backend = strict(upstream, engine, literals=turns)
    within(backend, *(ask(user(t), forcing(engine, "safety", "No.")) for t in texts))
    for body, text in zip(upstream.requests[2:], texts, strict=True):
        rendered = upstream._rendered(body["messages"], continues=False)
        assert [i for i in rendered if i in special] == plain, (
            "only what the template itself puts there"
        )
        assert body["messages"][-1]["content"].replace(WORD_JOINER, "") == text


@pytest.mark.parametrize("literal", ["", "#", f"a{WORD_JOINER}"], ids=ascii)
def test_a_literal_that_cannot_be_broken_is_refused(upstream, engine, literal):
    with pytest.raises(EngineError, match="cannot be broken"):
        strict(upstream, engine, literals=("<|im_end|>", literal))


@pytest.mark.parametrize("make", [gateway, strict], ids=["gateway", "strict"])
def test_many_first_requests_wait_for_one_look_at_the_server(upstream, engine, make):
    seen = []

    async def all_at_once():
        backend = make(upstream, engine)
        asks = [ask(p, forcing(engine, "safety", "No.")) for p in PROMPTS * 4]
        await asyncio.gather(*(backend.open(a) for a in asks))
        seen.extend(upstream.requests)
        await backend.close()

    asyncio.run(all_at_once())
    # the fixed prompt's score; a prompt with a continued answer and without
    looks = {gateway: 1, strict: 2}[make]
    assert len(seen) == looks + 4 * len(PROMPTS)


def test_a_server_that_cannot_continue_an_answer_is_refused_at_start_up(upstream, engine):
    upstream.prefill = False
    failing(
        strict(upstream, engine), ask(PROMPTS[0], policy(engine)), EngineError, "cannot continue"
    )


@pytest.mark.parametrize("failure", ["500", "malformed", "stall", "renamed"])
def test_the_strict_dialect_fails_closed_too(upstream, engine, failure):
    async def fail():
        backend = strict(upstream, engine, options=HASTY if failure == "stall" else {})
        await backend.ready()
        upstream.failure = failure
        with pytest.raises(BackendError):
            await backend.open(ask(PROMPTS[0], policy(engine)))
        await backend.close()

    asyncio.run(fail())
    assert not [r for r in upstream.requests if r.get("stream")]


@pytest.mark.parametrize("make", [gateway, strict])
@pytest.mark.parametrize("failure", ["no logprobs", "nan"])
def test_a_score_that_is_none_is_doubt_for_a_request_and_no_readiness(
    upstream, engine, make, failure
):
    async def fail():
        backend = make(upstream, engine)
        await backend.ready()
        upstream.failure = failure
        unreadable = make is strict and failure == "nan"  # a chat body with NaN in it is no JSON
        with pytest.raises(BackendDown if unreadable else ScoreDoubt):
            await backend.open(ask(PROMPTS[0], policy(engine)))
        if make is gateway:  # the other one's readiness asks for no score
            with pytest.raises(BackendDown):
                await backend.ready()
        await backend.close()

    asyncio.run(fail())
    assert not [r for r in upstream.requests if r.get("stream")]


@pytest.mark.parametrize("make", [gateway, strict])
def test_probability_off_the_control_tokens_is_doubt_behind_every_gateway(upstream, engine, make):
    """The network is not trained: nearly all of its probability is elsewhere."""
    never = replace(policy(engine, on_refuse="No.", threshold=NEVER), doubt=DoubtRule())
    if make is gateway:
        ((reply, parts),) = within(make(upstream, engine), ask(PROMPTS[0], never))
        assert (reply.decision.doubt, reply.decision.refuses, parts) == (True, True, [])
    failing(
        make(upstream, engine),
        ask(PROMPTS[0], replace(never, doubt=DoubtRule(then="error"))),
        ScoreDoubt,
    )
    assert not [r for r in upstream.requests if r.get("stream")]
