"""The two-call gateway under a policy with a monitor, against a small server of vLLM's dialect."""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import replace

import numpy as np
import pytest

from demur.base.errors import BackendDown, EngineError, PolicyError
from demur.core.midway.monitor import AnswerSampling, Monitor, Stop, first_stop, peaks
from demur.core.serving import AnswerPart, Sampling
from demur.core.taxonomy import coconot
from demur.core.threshold import NEVER
from demur.engines.answer_text import AnswerText
from demur.engines.hf.engine import HfEngine
from demur.engines.remote.answer_stream import AnswerRules, AnswerStream
from demur.engines.vllm.plugin_backend import PluginBackend
from demur.engines.vllm.two_call_backend import TwoCallBackend
from demur.engines.vllm.watched_stream import WatchedReader, WatchedStream, WatchRules
from tests.engines.checkpoints import user
from tests.engines.remote.test_gateways import ask, forcing, gateway, read, within
from tests.engines.upstream import Upstream

TOKENS, SIZE = coconot().tokens, 12
LENGTH = AnswerSampling(most_tokens=SIZE, temperature=0.0)
GREEDY = Sampling(max_tokens=SIZE, temperature=0.0)
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
PROMPTS = [user(f"{text} {n}") for n in range(5) for text in ("Bread?", "Hi", "A poem please.")]


@pytest.fixture(scope="module")
def engine(checkpoints):
    return HfEngine(model=checkpoints["llama"], tokens=TOKENS, max_new_tokens=SIZE)


@pytest.fixture(scope="module")
def server(engine):
    with Upstream(engine) as upstream:
        yield upstream


@pytest.fixture
def upstream(server):
    server.failure, server.pause_s, server.together, server.says = None, 0.0, 1, None
    server.requests.clear()
    return server


@pytest.fixture(scope="module")
def watched(engine):
    """The answer to each prompt that nothing stops, with its position scores."""
    return engine.watched(PROMPTS, LENGTH)


def watching(engine, watched, level, statistic="maximum", on_refuse="generate"):
    """A policy that answers, and stops answers whose peak lies above a level of all peaks."""
    shape = Monitor(
        thresholds=(1.0,) * 5, answers=LENGTH, statistic=statistic, reference=7e-4, held_back=4
    )
    peak_NK = np.array([peaks(shape, one.logp_TC)[0] for one in watched])
    level_K = np.quantile(peak_NK, level, axis=0) + 1e-3
    level_K = np.exp(level_K) if statistic == "maximum" else np.maximum(level_K, 0.1)
    level_K[1] = NEVER
    monitor = replace(shape, thresholds=tuple(level_K.tolist()))
    policy = forcing(engine, None, on_refuse)
    # answers everything: no threshold is ever reached
    categories = tuple(replace(c, override=None, threshold=NEVER) for c in policy.categories)
    return replace(policy, categories=categories, monitor=monitor)


def texts(parts):
    """Text ahead of the stop, the stop, the refusal behind it and how the answer ended."""
    at = next((n for n, part in enumerate(parts) if part.stop), len(parts))
    assert not any(p.refusal for p in parts[:at])
    assert not any(p.text for p in parts[at:])
    assert [p.finish for p in parts[:-1]] == [None] * (len(parts) - 1)
    stop = parts[at].stop if at < len(parts) else None
    refusal = "".join(p.refusal for p in parts[at:])
    return "".join(p.text for p in parts[:at]), stop, refusal, parts[-1].finish


def shown(engine, ids):
    text = AnswerText(lambda some: engine.tokenizer.decode(some, skip_special_tokens=True), ())
    return "".join(map(text.push, ids))


@pytest.mark.parametrize("together", [1, 3])
@pytest.mark.parametrize("statistic", ["maximum", "cusum"])
def test_an_answer_stops_where_its_scores_do_and_the_refusal_takes_one_call_more(
    upstream, engine, watched, statistic, together
):
    upstream.together = together
    policy = watching(engine, watched, 0.8, statistic)
    replies = within(gateway(upstream, engine), *(ask(p, policy, GREEDY) for p in PROMPTS))
    expected = [first_stop(policy.monitor, one.logp_TC) for one in watched]
    stops = 0
    for one, stop, (reply, parts) in zip(watched, expected, replies, strict=True):
        text, found, refusal, finish = texts(parts)
        assert found == stop
        assert not reply.decision.refuses
        tokens = sum(p.tokens for p in parts)
        if stop is None:
            assert text.rstrip("\ufffd").strip() == one.answer.text.rstrip("\ufffd").strip()
            assert tokens in (one.answer.tokens, one.answer.tokens + 1)  # the end token
            assert (finish == "stop") == one.answer.finished
        else:
            stops += 1
            assert sum(p.tokens for p in parts if p.text or not p.refusal) >= stop.position
            assert tokens <= SIZE - 1
            assert refusal or finish
    assert 2 < stops < len(PROMPTS) - 2
    streams = [r for r in upstream.requests if r.get("stream")]
    assert len(streams) == len(PROMPTS) + sum(
        stop is not None and stop.position < SIZE - 1 for stop in expected
    )
    # A refusal goes on after the answer so far and its token, within what is left of the limit.
    behind = [r for r in streams if r["prompt"][-1] in engine.encoder.token_ids[1:]]
    wanted = [(s.column, SIZE - s.position - 1) for s in expected if s and s.position < SIZE - 1]
    assert [
        (engine.encoder.token_ids.index(r["prompt"][-1]), r["max_tokens"]) for r in behind
    ] == wanted
    assert not any("logprob_token_ids" in r for r in behind)


class Plugged(PluginBackend):
    """Takes the small server for one with the plug-in."""

    async def _check_upstream(self, before):
        return await TwoCallBackend._check_upstream(self, before)


def test_a_sum_is_watched_here_in_front_of_the_plug_in_too(upstream, engine, watched):
    policy = watching(engine, watched, 0.8, "cusum")
    backend = gateway(upstream, engine, Plugged)
    replies = within(backend, *(ask(p, policy, GREEDY) for p in PROMPTS))
    expected = [first_stop(policy.monitor, one.logp_TC) for one in watched]
    assert [texts(parts)[1] for _, parts in replies] == expected
    assert any(expected)
    # the plug-in would refuse the policy: no request names it
    assert not any(r.get("vllm_xargs") for r in upstream.requests)


def test_the_text_ahead_of_a_stop_is_that_of_its_tokens(upstream, engine, watched):
    policy = watching(engine, watched, 0.5)
    for together in (1, 4):
        upstream.together = together
        replies = within(gateway(upstream, engine), *(ask(p, policy, GREEDY) for p in PROMPTS))
        behind = [
            r["prompt"]
            for r in upstream.requests
            if r.get("stream") and r["prompt"][-1] in engine.encoder.token_ids[1:]
        ]
        found = [(texts(parts), p) for p, (_, parts) in zip(PROMPTS, replies, strict=True)]
        stopped = [
            (text, stop, p) for (text, stop, _, _), p in found if stop and stop.position < SIZE - 1
        ]
        assert len(stopped) == len(behind) > 2
        for (text, stop, prompt), ids in zip(stopped, behind, strict=True):
            start = [*engine.encoder.prompt(prompt), engine.encoder.token_ids[0]]
            assert ids[: len(start)] == start
            assert len(ids) == len(start) + stop.position + 1
            assert text == shown(engine, ids[len(start) : -1])
        upstream.requests.clear()


def test_texts_are_those_of_the_tokens_whatever_the_server_says(upstream, engine, watched):
    # vLLM's text of a refusal begins with the whole prompt where the stop divides a character
    policy = watching(engine, watched, 0.5)
    asks = [ask(p, policy, GREEDY) for p in PROMPTS]
    right = [texts(parts) for _, parts in within(gateway(upstream, engine), *asks)]
    upstream.says = "the whole prompt"
    assert [texts(parts) for _, parts in within(gateway(upstream, engine), *asks)] == right
    assert any(refusal for _, _, refusal, _ in right)


def test_a_text_of_the_operators_own_takes_no_call(upstream, engine, watched):
    policy = watching(engine, watched, 0.0, on_refuse="No.")
    ((_, parts),) = within(gateway(upstream, engine), ask(PROMPTS[0], policy, GREEDY))
    _, stop, refusal, finish = texts(parts)
    assert (stop is not None, refusal, finish) == (True, "", "stop")
    assert len([r for r in upstream.requests if r.get("stream")]) == 1


def test_a_refusal_at_the_first_position_is_not_watched(upstream, engine, watched):
    policy = replace(
        watching(engine, watched, 0.0), categories=forcing(engine, "safety").categories
    )
    ((reply, parts),) = within(gateway(upstream, engine), ask(PROMPTS[0], policy, GREEDY))
    assert reply.decision.choice == "safety"
    assert not any(part.stop for part in parts)
    assert "logprob_token_ids" not in upstream.requests[-1]


@pytest.mark.parametrize(
    "case",
    [
        ("no logprobs", PolicyError, "streams no control-token scores"),
        ("nan", BackendDown, "no log-probabilities"),
        ("ignores the ban", BackendDown, "control token in mid-answer"),
    ],
)
def test_a_server_whose_answers_cannot_be_watched(upstream, engine, watched, case):
    failure, kind, match = case

    async def fails():
        backend = gateway(upstream, engine)
        await backend.ready()
        asked = ask(PROMPTS[0], watching(engine, watched, 1.0), GREEDY)
        check = backend._require_raw_scores

        async def checked(*given):
            # the calls ahead of the stream go well
            await check(*given)
            upstream.failure = failure

        backend._require_raw_scores = checked
        try:
            await read(backend, asked)
        finally:
            await backend.close()

    with pytest.raises(kind, match=match):
        asyncio.run(fails())


@pytest.mark.parametrize("failure", ["500", "400"])
def test_a_stop_is_made_though_the_call_for_its_refusal_fails(upstream, engine, watched, failure):
    # at the first token, and the server fails from then on
    policy = watching(engine, watched, 0.0)
    policy = replace(policy, monitor=replace(policy.monitor, thresholds=(1e-30,) * 5))

    async def fails():
        backend = gateway(upstream, engine)
        reply = await backend.open(ask(PROMPTS[0], policy, GREEDY))
        upstream.failure = failure
        try:
            return [part async for part in reply.parts]
        finally:
            await backend.close()

    parts = asyncio.run(fails())
    assert parts[0].stop == Stop(column=parts[0].stop.column, position=0)
    assert parts[-1].finish == "stop"
    assert not any(part.text for part in parts)


def test_a_server_that_reports_scores_after_the_ban_is_refused(upstream, engine, watched):
    # its first calls ban nothing, and show nothing; such a monitor would never stop
    upstream.failure = "processed"
    monitored, plain = watching(engine, watched, 0.0), forcing(engine, None)
    with pytest.raises(PolicyError, match="after its ban of control tokens"):
        within(gateway(upstream, engine), ask(PROMPTS[0], monitored, GREEDY))
    ((reply, _),) = within(gateway(upstream, engine), ask(PROMPTS[0], plain, GREEDY))
    assert not reply.decision.refuses

    async def restarted():
        backend = gateway(upstream, engine)
        upstream.failure = None
        await read(backend, ask(PROMPTS[0], monitored, GREEDY))
        upstream.failure = "processed"
        await backend.ready()
        try:
            await read(backend, ask(PROMPTS[0], monitored, GREEDY))
        finally:
            await backend.close()

    with pytest.raises(PolicyError, match="after its ban"):
        asyncio.run(restarted())


@pytest.mark.parametrize("fields", [{"json_schema": {}}, {"tools": (TOOL,), "tool_choice": "auto"}])
def test_what_a_grammar_of_vllms_would_hide_from_a_monitor_is_refused(
    upstream, engine, watched, fields
):
    asked = replace(ask(PROMPTS[0], watching(engine, watched, 0.0), GREEDY), **fields)
    with pytest.raises(EngineError, match="masks the scores that the monitor reads"):
        within(gateway(upstream, engine), asked)
    assert not any(r.get("stream") for r in upstream.requests)


# The plug-in's side: its server forces the refusal token and writes on.

IDS = (10, 11, 12)
WORDS = {n: chr(ord("a") + n) for n in range(8)}
CALM, HIGH = (-1.0, -5.0, -5.0), (-3.0, -0.2, -5.0)


def rules(plugged=True):
    monitor = Monitor(thresholds=(0.5, NEVER), answers=LENGTH, held_back=0)
    return WatchRules(
        monitor=monitor,
        token_ids=IDS,
        model="m",
        decode=lambda ids: "".join(WORDS.get(i, "") for i in ids),
        stops=(),
        plugged=plugged,
    )


def event(ids, scores, finish=None, reason=None):
    top = [{f"token_id:{i}": p for i, p in zip(IDS, row, strict=True)} for row in scores]
    choice = {"text": "?", "token_ids": ids, "logprobs": {"top_logprobs": top}}
    choice |= {"finish_reason": finish, "stop_reason": reason}
    return json.dumps({"model": "m", "choices": [choice]}).encode()


class Events:
    """What an AnswerStream is to a WatchedStream."""

    def __init__(self, reader, events):
        self.parts = (reader.read(data) for data in events)
        self.closed = False

    def __aiter__(self):
        return self

    async def __anext__(self):
        if self.closed:
            raise StopAsyncIteration
        return next(self.parts, None) or await self.ended()

    async def ended(self):
        raise StopAsyncIteration

    async def aclose(self):
        self.closed = True


def passed_on(events, plugged=True):
    reader = WatchedReader(rules(plugged))

    async def refuse(stop, ids):
        asked.append((stop, list(ids)))
        return Events(reader, [event([7], [CALM], "stop", "x")])

    async def run():
        return [part async for part in WatchedStream(Events(reader, events), reader, refuse)]

    asked = []
    return asyncio.run(run()), asked


def test_the_plug_ins_refusal_is_told_from_the_answer_wherever_events_are_cut():
    tokens = [(0, CALM), (1, CALM), (11, HIGH), (2, HIGH), (3, HIGH)]
    stop = Stop(column=1, position=2)
    for cuts in ([5], [1, 1, 1, 1, 1], [2, 3], [3, 2], [1, 3, 1]):
        events, at = [], 0
        for size in cuts:
            some = tokens[at : at + size]
            at += size
            finish = "length" if at == len(tokens) else None
            events.append(event([t for t, _ in some], [s for _, s in some], finish))
        parts, asked = passed_on(events)
        assert not asked
        assert texts(parts) == ("ab", stop, "cd", "length")
        assert sum(p.tokens for p in parts) == 4


def test_a_stop_beyond_the_limit_of_tokens_is_none():
    # a server that writes more than it is asked for, all in one event
    reader = WatchedReader(rules(plugged=False))

    class One:
        async def __aiter__(self):
            yield event([0, 1, 2, 3], [CALM, CALM, CALM, HIGH])

        async def aclose(self):
            pass

    async def run():
        parts = AnswerStream(One(), reader.read, AnswerRules(most_tokens=2))
        return [part async for part in WatchedStream(parts, reader, None)]

    parts = asyncio.run(run())
    assert [part.finish for part in parts] == ["length"]
    assert not any(part.stop for part in parts)


def test_a_stop_with_the_operators_own_text_ends_the_stream():
    # vLLM ends the answer at the token, which it is asked to stop at
    parts, asked = passed_on([event([0, 1, 11], [CALM, CALM, HIGH], "stop", 11)])
    assert not asked
    assert texts(parts) == ("ab", Stop(column=1, position=2), "", "stop")


def test_a_stop_that_the_plug_in_missed_is_made_here(caplog):
    # the command line, called in this process before, shows errors only
    caplog.set_level(logging.WARNING)
    parts, asked = passed_on([event([0, 1, 2], [CALM, HIGH, CALM])])
    stop = Stop(column=1, position=1)
    assert asked == [(stop, [0])]
    assert texts(parts) == ("a", stop, "h", "stop")
    assert "did not stop" in caplog.text


@pytest.mark.parametrize(
    ("plugged", "ids", "scores"),
    [
        (True, [0, 11], [CALM, CALM]),  # its score is below the threshold
        (True, [0, 12], [CALM, HIGH]),  # never
        (True, [0, 10], [CALM, HIGH]),  # respond
        (True, [0, 11, 11], [CALM, HIGH, HIGH]),  # twice
        (False, [0, 11], [CALM, HIGH]),  # nobody forces tokens there
    ],
)
def test_a_control_token_without_a_stop_breaks_the_answer_off(plugged, ids, scores):
    with pytest.raises(BackendDown, match="control token in mid-answer"):
        passed_on([event(ids, scores)], plugged)


def test_the_token_that_ends_an_answer_is_not_counted():
    parts, _ = passed_on([event([0, 7], [CALM, HIGH], "stop")])
    assert texts(parts) == ("a", None, "", "stop")
    # behind a stop string, or at the limit, the last token was written
    for finish, reason in (("stop", "b"), ("length", None)):
        parts, asked = passed_on([event([0, 1], [CALM, HIGH], finish, reason)])
        assert asked == [(Stop(column=1, position=1), [0])]
    assert AnswerPart() not in parts
