"""A model in service: many requests at once, one prefill each, and nothing that depends on the
company.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import replace

import numpy as np
import psutil
import pytest
import torch

from demur.base.errors import (
    BackendBusy,
    BackendDown,
    EngineError,
    PolicyError,
    ScoreDoubt,
    ScoreError,
)
from demur.core.decision import decide
from demur.core.midway.monitor import AnswerSampling, Monitor
from demur.core.policy import CategoryPolicy, DoubtRule, Policy, natural
from demur.core.serving import Backend, Sampling, ServeRequest
from demur.core.taxonomy import coconot
from demur.core.threshold import NEVER
from demur.engines.hf.engine import HfEngine
from demur.engines.inprocess import worker
from demur.engines.inprocess.backend import HfBackend
from demur.engines.inprocess.limits import BackendLimits
from tests.engines.checkpoints import user
from tests.engines.hf.test_engine import Passes
from tests.waiting import settled

TOKENS = coconot().tokens
NEVER_IN_DOUBT = DoubtRule(most_leftover=1.0)  # a random model has nearly all of its mass elsewhere
GREEDY = Sampling(temperature=0.0, max_tokens=20)
LONG = Sampling(temperature=0.0, max_tokens=150)
TEXTS = [
    "What is the capital of France?",
    "bake bread " * 12,
    "Hi",
    "Tell me how you feel.",
    "a poem about the sea",
]
TOOL = {"type": "function", "function": {"name": "find", "parameters": {}}}

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 8}, "sea": {"type": "boolean"}},
    "required": ["city", "sea"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module", params=["llama", "gpt2", "gemma2"])
def engine(request, checkpoints):
    return HfEngine(model=checkpoints[request.param], tokens=TOKENS, max_new_tokens=20)


@pytest.fixture(scope="module")
def llama(checkpoints):
    return HfEngine(model=checkpoints["llama"], tokens=TOKENS, max_new_tokens=20)


@asynccontextmanager
async def serving(engine, **limits):
    backend = HfBackend(engine, BackendLimits(**limits))
    try:
        yield backend
    finally:
        await backend.close()


def always(engine, column, on_refuse="generate"):
    """A policy whose decision is always this column."""
    categories = [CategoryPolicy(on_refuse=on_refuse) for _ in coconot().names]
    if column:
        categories[column - 1] = replace(categories[column - 1], override="force")
    else:
        categories = [replace(c, override="suppress") for c in categories]
    return Policy(
        name=f"always {column}",
        taxonomy=coconot(),
        rule="heaviest",
        categories=tuple(categories),
        fingerprint=engine.fingerprint,
        doubt=NEVER_IN_DOUBT,
    )


def half(engine, on_refuse="generate"):
    """A policy that refuses about half of TEXTS."""
    score = float(np.median(np.exp(engine.logp([user(t) for t in TEXTS])[:, 1:]).max(axis=1)))
    categories = (CategoryPolicy(threshold=score, on_refuse=on_refuse),) * 5
    return Policy(
        name="half",
        taxonomy=coconot(),
        rule="heaviest",
        categories=categories,
        fingerprint=engine.fingerprint,
        doubt=NEVER_IN_DOUBT,
    )


def ask(text, policy, sampling=GREEDY, **fields):
    return ServeRequest(
        messages=user(text), policy=policy, policy_digest="sha256:0", sampling=sampling, **fields
    )


async def whole(backend, asked):
    """The reply, its text and its parts."""
    reply = await backend.open(asked)
    parts = [part async for part in reply.parts]
    return reply, "".join(part.text for part in parts), parts


def one(engine, asked, **limits):
    async def scenario():
        async with serving(engine, **limits) as backend:
            return await whole(backend, asked)

    return asyncio.run(scenario())


def plain(text):
    """Without what generators strip, and without half a character at its end, which is never
    served.
    """
    return text.strip().rstrip("\ufffd").strip()


def test_64_requests_at_once_are_each_scored_decided_and_answered_as_alone(engine):
    policies = [
        always(engine, 0),
        always(engine, 2),
        half(engine),
        replace(natural(coconot(), engine.fingerprint), doubt=NEVER_IN_DOUBT),
    ]
    asks = [
        ask(
            TEXTS[n % 5] + " please" * (n % 7),
            policies[n % 4],
            replace(GREEDY, max_tokens=1 + n % 20),
        )
        for n in range(64)
    ]
    logp_NC = engine.logp([a.messages for a in asks])

    async def scenario():
        async with serving(engine, rows=24) as backend:
            return await asyncio.gather(*(whole(backend, a) for a in asks))

    answers = asyncio.run(scenario())
    branches = engine.branches(
        [a.messages for a in asks], [[reply.decision.column] for reply, _, _ in answers]
    )
    parted = []
    for asked, logp_C, by_column, (reply, text, parts) in zip(
        asks, logp_NC, branches, answers, strict=True
    ):
        np.testing.assert_allclose(reply.logp_C, logp_C, atol=1e-5)
        assert reply.decision == decide(asked.policy, reply.logp_C)
        assert reply.decision.column == decide(asked.policy, logp_C).column
        assert all(p.finish is None for p in parts[:-1])
        assert reply.prompt_tokens == len(engine.encoder.prompt(asked.messages))
        if not is_branch(
            by_column[reply.decision.column], text, parts, asked.sampling.max_tokens, engine
        ):
            parted.append(text)
    # Batches round differently: of some 700 greedy choices of a random model, one may lie between
    # two equal logits.
    assert len(parted) <= 1


def is_branch(branch, text, parts, limit, engine):
    """Whether a served answer is this branch, cut after `limit` tokens."""
    whole_text = limit == engine.max_new_tokens or branch.tokens < limit
    return (
        branch.text.startswith(plain(text))
        and (not whole_text or plain(text) == plain(branch.text))
        and sum(p.tokens for p in parts) == min(limit, branch.tokens)
        and parts[-1].finish == ("stop" if branch.finished and branch.tokens < limit else "length")
    )


def test_an_answer_takes_a_prefill_and_a_position_a_token_and_a_silent_refusal_the_prefill_alone(
    llama,
):
    silent = always(llama, 1, on_refuse="No.")

    async def scenario(policy):
        async with serving(llama) as backend:
            with Passes(llama) as passes:
                reply, _, parts = await whole(backend, ask(TEXTS[0], policy))
            return reply, parts, passes.shapes

    reply, parts, shapes = asyncio.run(scenario(always(llama, 0)))
    assert shapes[0] == (1, reply.prompt_tokens)
    written = sum(p.tokens for p in parts)
    assert shapes[1:] == [(1, 1)] * (written + (parts[-1].finish == "stop"))
    reply, parts, shapes = asyncio.run(scenario(silent))
    assert (reply.decision.choice, parts, shapes) == (
        coconot().names[0],
        [],
        [(1, reply.prompt_tokens)],
    )


def test_many_requests_are_read_once_each(llama):
    async def scenario():
        async with serving(llama, prefill_tokens=256) as backend:
            with Passes(llama) as passes:
                asks = [ask(TEXTS[n % 5], always(llama, n % 6, on_refuse="No.")) for n in range(30)]
                await asyncio.gather(*(whole(backend, a) for a in asks))
            return passes.shapes

    read = [(rows, width) for rows, width in asyncio.run(scenario()) if width > 1]
    assert sum(rows for rows, _ in read) == 30
    assert all(rows == 1 or rows * width <= 2 * 256 for rows, width in read)


def test_a_long_prompt_does_not_make_short_ones_dear(llama):
    texts = ["sea " * 30, *TEXTS[2:4] * 5]
    lengths = [len(llama.encoder.prompt(user(t))) for t in texts]

    async def scenario():
        async with serving(llama) as backend:
            with Passes(llama) as passes:
                await asyncio.gather(
                    *(whole(backend, ask(t, always(llama, 1, on_refuse="No."))) for t in texts)
                )
            return passes.shapes

    assert (
        sum(rows * width for rows, width in asyncio.run(scenario()))
        < 2 * sum(lengths)
        < len(texts) * max(lengths)
    )


def test_a_decision_comes_before_the_answer_and_is_made_of_the_score_that_is_handed_out(llama):
    policy = half(llama)

    async def scenario():
        async with serving(llama) as backend:
            return [await backend.open(ask(t, policy)) for t in TEXTS]

    replies = asyncio.run(scenario())
    assert {r.decision.refuses for r in replies} == {True, False}
    assert [r.decision for r in replies] == [decide(policy, r.logp_C) for r in replies]


def test_a_seed_fixes_a_sampled_answer_whatever_else_is_written(llama):
    policy = always(llama, 0)
    seeded = ask(TEXTS[0], policy, Sampling(seed=7, max_tokens=20))

    async def scenario():
        async with serving(llama) as backend:
            alone = (await whole(backend, seeded))[1]
            others = [ask(t, policy, Sampling(max_tokens=20)) for t in TEXTS * 2]
            crowd = await asyncio.gather(*(whole(backend, a) for a in [*others, seeded, *others]))
            changed = replace(seeded, sampling=Sampling(seed=8, max_tokens=20))
            return alone, [text for _, text, _ in crowd], (await whole(backend, changed))[1]

    alone, crowd, changed = asyncio.run(scenario())
    assert crowd[10] == alone != changed
    assert len(set(crowd)) > 10


@pytest.mark.parametrize("length", [1, 2, 5])
def test_a_stop_string_ends_an_answer_before_it_even_across_tokens(llama, length):
    policy = always(llama, 0)
    text = one(llama, ask(TEXTS[1], policy))[1]
    stop = text[6 : 6 + length]
    _, cut, parts = one(
        llama, ask(TEXTS[1], policy, replace(GREEDY, stop=(stop, "nowhere to be found")))
    )
    assert (cut, parts[-1].finish) == (text.partition(stop)[0], "stop")


def test_control_tokens_are_never_written_after_the_first_position(llama):
    head = llama.network.get_output_embeddings().weight
    kept = head.detach().clone()
    try:
        with torch.no_grad():  # every control token outweighs every other at every position
            head[list(llama.encoder.token_ids)] = head[7] * 50
        replies = [one(llama, ask(t, always(llama, 3), Sampling(max_tokens=20)))[1] for t in TEXTS]
    finally:
        head.data.copy_(kept)
    assert any(replies)
    assert not any(token in text for text in replies for token in TOKENS)


def test_closing_an_answer_early_frees_its_place_and_leaves_the_others_alone(llama):
    async def scenario():
        async with serving(llama, rows=2) as backend:
            kept, left = [await backend.open(ask(t, always(llama, 0), LONG)) for t in TEXTS[:2]]
            third = asyncio.create_task(backend.open(ask(TEXTS[2], always(llama, 0))))
            await anext(left.parts)
            await left.parts.aclose()
            assert [p async for p in left.parts] == []
            reply = await third  # there was no place before
            text = "".join([p.text async for p in reply.parts])
            unread = await backend.open(ask(TEXTS[3], always(llama, 0), LONG))
            await unread.parts.aclose()
            rest = "".join([p.text async for p in kept.parts])
            await settled(lambda: backend.writing == 0)
            return text, rest

    text, rest = asyncio.run(scenario())
    assert plain(text) == plain(llama.branches([user(TEXTS[2])], [[0]])[0][0].text)
    assert rest == one(llama, ask(TEXTS[0], always(llama, 0), LONG))[1]


def test_a_request_that_nobody_waits_for_any_more_leaves_the_queue(llama):
    async def scenario():
        async with serving(llama, rows=1, waiting=1) as backend:
            first = await backend.open(ask(TEXTS[0], always(llama, 0), LONG))
            second = asyncio.create_task(backend.open(ask(TEXTS[1], always(llama, 0))))
            await asyncio.sleep(0)
            with pytest.raises(BackendBusy, match="1 requests wait"):
                await backend.open(ask(TEXTS[2], always(llama, 0)))
            second.cancel()
            with pytest.raises(asyncio.CancelledError):
                await second
            third = asyncio.create_task(whole(backend, ask(TEXTS[2], always(llama, 0))))
            await first.parts.aclose()
            return (await third)[1]

    assert asyncio.run(scenario()) == one(llama, ask(TEXTS[2], always(llama, 0)))[1]


def test_a_prompt_that_fills_the_context_is_refused_with_its_numbers_and_answers_end_where_it_ends(
    llama,
):
    with pytest.raises(EngineError, match=r"the prompt has \d+ tokens .* reads 192"):
        one(llama, ask("word " * 400, always(llama, 0)))
    text = next(t for n in range(200) if len(llama.encoder.prompt(user(t := "sea " * n))) >= 185)
    reply, _, parts = one(llama, ask(text, always(llama, 0), replace(GREEDY, max_tokens=500)))
    room = 192 - reply.prompt_tokens - 1
    assert 0 < room < 8
    assert sum(p.tokens for p in parts) == room or parts[-1].finish == "stop"
    assert parts[-1].finish in ("stop", "length")


def test_an_answer_of_no_tokens_is_decided_and_ends_at_once(llama):
    reply, text, parts = one(llama, ask(TEXTS[0], always(llama, 2), Sampling(max_tokens=0)))
    assert (reply.decision.column, text, [p.finish for p in parts]) == (2, "", ["length"])


def test_what_cannot_be_honoured_is_refused_and_harms_nobody(llama):
    bad = replace(always(llama, 0), fingerprint=None)

    async def scenario():
        async with serving(llama) as backend:
            with pytest.raises(EngineError, match="not among the tools"):
                await backend.open(
                    ask(TEXTS[0], always(llama, 0), tools=(TOOL,), tool_choice="lose")
                )
            with pytest.raises(EngineError, match="JSON schema cannot be followed"):
                await backend.open(
                    ask(TEXTS[0], always(llama, 0), json_schema={"type": "no such type"})
                )
            with pytest.raises(PolicyError, match="names no model"):
                await backend.open(ask(TEXTS[0], bad))
            return (await whole(backend, ask(TEXTS[0], always(llama, 0))))[1]

    assert asyncio.run(scenario())


def test_a_score_that_is_none_fails_its_own_request_only(checkpoints):
    engine = HfEngine(model=checkpoints["qwen2"], tokens=TOKENS)
    fine = engine.encoder.prompt(user("Hi"))
    broken = next(i for i in engine.encoder.prompt(user("sea")) if i not in fine)

    async def scenario():
        async with serving(engine) as backend:
            # the head has weights of its own: only prompts with this token are lost
            with torch.no_grad():
                engine.network.get_input_embeddings().weight[broken] = torch.nan
            asks = [ask(text, always(engine, 0)) for text in ("sea", "Hi")]
            return await asyncio.gather(*(whole(backend, a) for a in asks), return_exceptions=True)

    failed, (_, text, _) = asyncio.run(scenario())
    assert isinstance(failed, ScoreDoubt)
    assert plain(text) == plain(engine.branches([user("Hi")], [[0]])[0][0].text)


def test_closing_ends_open_replies_and_later_requests(llama):
    async def scenario():
        backend: Backend = HfBackend(llama, BackendLimits(rows=1))
        await backend.ready()
        reply = await backend.open(ask(TEXTS[0], always(llama, 0), LONG))
        waiting = asyncio.create_task(backend.open(ask(TEXTS[1], always(llama, 0))))
        await anext(reply.parts)
        await backend.close()
        with pytest.raises(BackendDown, match=r"shut(ting)? down"):
            _ = [part async for part in reply.parts]
        with pytest.raises(BackendDown, match=r"shut(ting)? down"):
            await waiting
        with pytest.raises(BackendDown):
            await backend.ready()
        with pytest.raises(BackendDown):
            await backend.open(ask(TEXTS[0], always(llama, 0)))
        await backend.close()
        return reply

    assert asyncio.run(scenario()).decision.column == 0


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_model_that_breaks_takes_everybody_down_and_says_why(llama):
    def fail(*_):
        raise RuntimeError("out of memory")

    async def scenario():
        async with serving(llama, restarts=0) as backend:
            reply = await backend.open(ask(TEXTS[0], always(llama, 0), LONG))
            await anext(reply.parts)
            handle = llama.network.register_forward_pre_hook(fail)
            try:
                with pytest.raises(BackendDown):
                    _ = [part async for part in reply.parts]
                with pytest.raises(BackendDown):
                    await backend.open(ask(TEXTS[1], always(llama, 0)))
            finally:
                handle.remove()
            with pytest.raises(BackendDown, match="RuntimeError\\('out of memory'\\)"):
                await backend.ready()
        return backend.writing

    assert asyncio.run(scenario()) == 0


def test_callers_whose_event_loop_is_gone_are_forgotten(llama):
    backend = HfBackend(llama)

    async def leave():
        await backend.open(ask(TEXTS[0], always(llama, 0), LONG))

    async def come():
        await settled(lambda: backend.writing == 0)
        text = (await whole(backend, ask(TEXTS[2], always(llama, 0))))[1]
        await backend.close()
        return text

    asyncio.run(leave())
    assert asyncio.run(come()) == one(llama, ask(TEXTS[2], always(llama, 0)))[1]


def test_a_model_that_reads_padding_is_refused_at_start(checkpoints):
    with pytest.raises(EngineError, match="padding on the right changes the scores"):
        HfBackend(HfEngine(model=checkpoints["bert-not-causal"], tokens=TOKENS))


def test_memory_does_not_grow_with_the_number_of_requests(llama):
    process = psutil.Process()

    async def round_of(backend, n):
        sampling = Sampling(max_tokens=4, seed=n)
        asks = [ask(TEXTS[k % 5] + " x" * k, always(llama, k % 2), sampling) for k in range(16)]
        await asyncio.gather(*(whole(backend, a) for a in asks))

    async def scenario():
        async with serving(llama) as backend:
            for n in range(15):
                await round_of(backend, n)
            before = process.memory_info().rss
            for n in range(30):
                await round_of(backend, n)
            return process.memory_info().rss - before

    assert asyncio.run(scenario()) < 8 * 2**20


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_json_answer_fits_its_schema_and_ends_with_it(llama, temperature):
    pytest.importorskip("llguidance")
    sampling = Sampling(temperature=temperature, max_tokens=120, seed=1)
    _, text, parts = one(llama, ask(TEXTS[0], always(llama, 0), sampling, json_schema=SCHEMA))
    answer = json.loads(text)
    assert set(answer) == {"city", "sea"}
    assert len(answer["city"]) <= 8
    assert parts[-1].finish == "stop"


def test_a_refusal_is_not_bound_by_the_schema_nor_are_the_others_of_the_batch(llama):
    pytest.importorskip("llguidance")
    columns = [0, 2] * len(TEXTS)
    asks = [
        ask(TEXTS[n // 2], always(llama, c), json_schema=SCHEMA if c else None)
        for n, c in enumerate(columns)
    ]

    async def scenario():
        async with serving(llama) as backend:
            json_too = whole(
                backend,
                ask(
                    TEXTS[0], always(llama, 0), replace(GREEDY, max_tokens=120), json_schema=SCHEMA
                ),
            )
            return await asyncio.gather(json_too, *(whole(backend, a) for a in asks))

    (_, written, _), *others = asyncio.run(scenario())
    assert set(json.loads(written)) == {"city", "sea"}
    branches = llama.branches([a.messages for a in asks], [[c] for c in columns])
    assert [plain(text) for _, text, _ in others] == [
        plain(b[c].text) for b, c in zip(branches, columns, strict=True)
    ]


def test_an_empty_schema_means_any_object(llama):
    pytest.importorskip("llguidance")
    sampling = Sampling(max_tokens=150, seed=3, temperature=0.5)
    _, text, parts = one(llama, ask(TEXTS[0], always(llama, 0), sampling, json_schema={}))
    assert text.startswith("{")
    assert parts[-1].finish == "length" or isinstance(json.loads(text), dict)


CALL = {"name": "find", "parameters": SCHEMA}
FIND = {"tools": ({"type": "function", "function": CALL},)}


@pytest.fixture(scope="module")
def long(checkpoints):
    """Reads enough to be told of functions."""
    engine = HfEngine(model=checkpoints["llama"], tokens=TOKENS, max_new_tokens=20)
    engine.rules = replace(engine.rules, context=2000)
    return engine


@pytest.mark.parametrize("choice", ["required", "find"])
def test_a_required_call_fits_the_functions_parameters_and_the_decision_knows_nothing_of_them(
    long, choice
):
    alone = long.logp([user(TEXTS[0])])[0]
    asked = ask(TEXTS[0], always(long, 0), LONG, tool_choice=choice, **FIND)
    reply, _, (part,) = one(long, asked)
    np.testing.assert_allclose(reply.logp_C, alone, atol=1e-5)
    assert part.finish in ("tool_calls", "length")
    for call in part.tool_calls:
        assert call["function"]["name"] == "find"
        assert set(json.loads(call["function"]["arguments"])) == {"city", "sea"}
    assert part.tool_calls or part.finish == "length"


def test_where_the_choice_is_the_models_what_it_begins_decides(long, monkeypatch):
    asked = ask(TEXTS[0], always(long, 0), LONG, tool_choice="auto", **FIND)
    _, text, parts = one(long, asked)
    assert not text.lstrip().startswith("{")
    assert not [p for p in parts if p.tool_calls]
    monkeypatch.setattr("demur.engines.tool_calls._BRACE", text.lstrip()[0])
    _, text, (part,) = one(long, asked)
    assert part.tool_calls or part.finish == "length"
    assert not text


def test_a_refusal_calls_nothing_and_leaves_no_answer_behind(long):
    async def scenario():
        async with serving(long) as backend:
            refused = await whole(
                backend, ask(TEXTS[0], always(long, 4), tool_choice="required", **FIND)
            )
            silent = await whole(
                backend, ask(TEXTS[0], always(long, 4, "No."), tool_choice="auto", **FIND)
            )
            answered = await backend.open(
                ask(TEXTS[0], always(long, 0), tool_choice="auto", **FIND)
            )
            await answered.parts.aclose()
            await settled(lambda: backend.writing == 0)
            return refused, silent

    (reply, text, parts), (_, nothing, none) = asyncio.run(scenario())
    assert reply.decision.refuses
    assert text
    assert not [p for p in parts if p.tool_calls]
    assert (nothing, none) == ("", [])


@pytest.mark.parametrize("then", ["refuse", "error"])
def test_probability_off_the_control_tokens_is_doubt_and_hurts_no_neighbour(engine, then):
    doubting = replace(always(engine, 0), doubt=DoubtRule(then=then))
    never = replace(
        doubting, categories=tuple(CategoryPolicy(on_refuse="No.") for _ in coconot().names)
    )

    async def scenario():
        backend = HfBackend(engine)
        try:
            asked = [ask(TEXTS[0], never), ask(TEXTS[1], always(engine, 0))]
            return await asyncio.gather(*(whole(backend, a) for a in asked), return_exceptions=True)
        finally:
            await backend.close()

    doubted, answered = asyncio.run(scenario())
    if then == "error":
        assert isinstance(doubted, ScoreDoubt)
    else:
        assert doubted[0].decision.doubt
        assert doubted[0].decision.refuses
    assert not answered[0].decision.refuses


def watched(engine, threshold, on_refuse="generate"):
    """A policy that answers every request; its monitor stops with the first category."""
    policy = always(engine, 0, on_refuse)
    answers = AnswerSampling(most_tokens=150, temperature=0.0)
    monitor = Monitor(thresholds=(threshold,) + (NEVER,) * 4, answers=answers)
    return replace(policy, monitor=monitor)


def test_a_stop_under_a_schema_or_in_a_tool_call_ends_it_and_nothing_of_it_is_a_call(long):
    pytest.importorskip("llguidance")

    async def run():
        async with serving(long) as backend:
            for fields in (
                {"json_schema": SCHEMA},
                FIND | {"tool_choice": "find"},
                FIND | {"tool_choice": "auto"},
            ):
                _, text, parts = await whole(
                    backend, ask(TEXTS[0], watched(long, 0.0), LONG, **fields)
                )
                (stop,) = [part.stop for part in parts if part.stop is not None]
                assert stop.column == 1
                assert text == ""
                assert "".join(part.refusal for part in parts).strip()
                assert not any(part.tool_calls for part in parts)
                # the operator's text stands for the refusal: nothing is written after the stop
                _, text, parts = await whole(
                    backend, ask(TEXTS[0], watched(long, 0.0, "No."), LONG, **fields)
                )
                assert [part.stop is not None for part in parts] == [True]
                assert (text, parts[-1].refusal, parts[-1].finish) == ("", "", "stop")
            # a monitor that stops nothing leaves the JSON whole
            _, text, parts = await whole(
                backend, ask(TEXTS[0], watched(long, 1.0), LONG, json_schema=SCHEMA)
            )
            assert set(json.loads(text)) == {"city", "sea"}
            assert backend.writing == 0

    asyncio.run(run())


def test_a_position_without_a_score_ends_its_answer_and_no_other(llama, monkeypatch):
    monitored, plain = watched(llama, 1.0), always(llama, 0)
    real = worker.control_scores

    def spoilt(logits_RV, ids):
        scores = real(logits_RV, ids)
        return scores if len(scores) > 1 else np.full_like(scores, np.nan)

    async def run():
        async with serving(llama) as backend:
            reply = await backend.open(ask(TEXTS[0], monitored))
            monkeypatch.setattr(worker, "control_scores", spoilt)
            with pytest.raises(ScoreError, match="not log-probabilities"):
                async for _ in reply.parts:
                    pass
            monkeypatch.setattr(worker, "control_scores", real)
            _, text, _ = await whole(backend, ask(TEXTS[1], plain))
            assert text
            assert backend.writing == 0

    asyncio.run(run())
