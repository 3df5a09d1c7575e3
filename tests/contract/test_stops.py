"""Where an answer stops: recorded traces say offline what every engine of transformers did.

200 answers x 10 monitors of a tiny model, greedy and drawn; 1,000 x 10 in the slow cases, as
bench/stops_parity.py has of vLLM. Position and category agree; answers
whose peak lies within ENGINE_TOLERANCE of a threshold are let off, and none is.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import LogitsProcessorList

from demur.base.arrays import occurrences
from demur.core.midway.monitor import AnswerSampling, Monitor, first_stop, peaks
from demur.core.policy import CategoryPolicy, Policy, natural
from demur.core.score import ENGINE_TOLERANCE
from demur.core.serving import Sampling, ServeRequest
from demur.core.taxonomy import coconot
from demur.core.threshold import NEVER
from demur.engines.hf.engine import HfEngine
from demur.engines.hf.gate import RefusalGate
from demur.engines.hf.watch import answer_seed
from demur.engines.inprocess.backend import HfBackend
from tests.engines.checkpoints import TEXT, make_checkpoint, user

TOKENS, SIZE = coconot().tokens, 16
WORDS = TEXT.split()


def prompts(count):
    rng = np.random.default_rng(3)
    return [user(" ".join(rng.choice(WORDS, int(rng.integers(2, 9))))) for _ in range(count)]


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    """A random checkpoint: its control tokens have some probability in mid-answer."""
    folder = make_checkpoint(tmp_path_factory.mktemp("stops") / "llama", "llama")
    return HfEngine(model=folder, tokens=TOKENS, max_new_tokens=SIZE, write_tokens=8192)


def monitors(traces, sampling):
    """Ten monitors, five of each statistic, whose thresholds stop about half of the answers."""
    made = []
    for n in range(10):
        statistic = ("maximum", "cusum")[n % 2]
        shape = Monitor(
            thresholds=(0.5,) * 5,
            answers=sampling,
            statistic=statistic,
            reference=0.003,
            held_back=4,
        )
        peak_NK = np.array([peaks(shape, trace)[0] for trace in traces])
        level_K = np.quantile(peak_NK, 0.6 + 0.03 * n, axis=0) + 0.003
        level_K = np.exp(level_K) if statistic == "maximum" else np.maximum(level_K, 0.1)
        level_K[n % 5] = NEVER
        made.append(replace(shape, thresholds=tuple(level_K.tolist())))
    return made


def close_calls(monitor, traces):
    """Whether a peak of each answer lies so near a threshold that rounding may decide."""
    return [
        any(
            first_stop(monitor, trace + shift) != first_stop(monitor, trace)
            for shift in (-ENGINE_TOLERANCE, ENGINE_TOLERANCE)
        )
        for trace in (np.minimum(t, -2 * ENGINE_TOLERANCE) for t in traces)
    ]


def policy_of(engine, monitor):
    """A policy that answers every request, watched. Every third category has a text of its own."""
    categories = tuple(
        CategoryPolicy(on_refuse="No." if k % 3 == 2 else "generate") for k in range(5)
    )
    policy = Policy(
        name="p",
        taxonomy=coconot(),
        rule="any",
        categories=categories,
        fingerprint=engine.fingerprint,
        doubt=replace(natural(coconot()).doubt, most_leftover=1.0),
    )
    return replace(policy, monitor=monitor)


def whole(text):
    """A text without the bytes at its end that are no character; streams drop these."""
    return re.sub(r"[\s\ufffd]+$", "", text.strip())


def disagreements(expected, found, close):
    """Answers whose stops differ and that are no close call."""
    pairs = zip(expected, found, close, strict=True)
    return [(e, f) for e, f, near in pairs if e != f and not near]


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("temperature", "count"),
    [(0.0, 200), pytest.param(1.2, 200, marks=SLOW), pytest.param(0.0, 1000, marks=SLOW)],
)
def test_traces_say_where_each_engine_stops(engine, temperature, count):
    asked = prompts(count)
    sampling = AnswerSampling(most_tokens=SIZE, temperature=temperature)
    watched = engine.watched(asked, sampling)
    traces = [one.logp_TC for one in watched]
    stopped, close_ones = 0, 0
    for n, monitor in enumerate(monitors(traces, sampling)):
        policy = policy_of(engine, monitor)
        expected = [first_stop(monitor, trace) for trace in traces]
        close = close_calls(monitor, traces)
        answered = engine.answer(asked, policy)
        found = [answer.stop for _, _, answer in answered]
        assert not disagreements(expected, found, close), n
        for one, stop, (_, decision, answer) in zip(watched, expected, answered, strict=True):
            assert not decision.refuses
            if stop is None and answer.stop is None:
                assert answer == one.answer
            if answer.stop is not None and not policy.writes(answer.stop.column):
                assert answer.text == "No."
        if temperature == 0.0:
            assert not disagreements(expected, gated(engine, asked, policy), close), n
        stopped += sum(stop is not None for stop in expected)
        close_ones += sum(close)
    assert 0.2 < stopped / (10 * count) < 0.95
    assert close_ones < count / 10


def gated(engine, asked, policy):
    """Stops of model.generate with the gate, greedily."""
    encoded = [engine.encoder.prompt(p) for p in asked]
    found = []
    for start in range(0, len(asked), 50):
        rows = encoded[start : start + 50]
        width = max(map(len, rows))
        ids = torch.tensor([[engine.filler] * (width - len(r)) + r for r in rows])
        mask = torch.tensor([[0] * (width - len(r)) + [1] * len(r) for r in rows])
        gate = RefusalGate(
            engine.network,
            policy,
            engine.encoder.token_ids,
            prompt_length=width,
            stop_ids=sorted(engine.rules.stops),
        )
        with gate, torch.no_grad():
            written = engine.network.generate(
                input_ids=ids,
                attention_mask=mask,
                do_sample=False,
                max_new_tokens=SIZE + 1,
                eos_token_id=list(engine.rules.stops),
                logits_processor=LogitsProcessorList([gate]),
            )
        for r, stop in enumerate(gate.stops):
            if stop is not None:
                at = width + 1 + stop.position
                assert written[r, at] == engine.encoder.token_ids[stop.column]
        found += gate.stops
    return found


@pytest.mark.parametrize(
    ("temperature", "count"), [pytest.param(0.0, 1000, marks=SLOW), (1.2, 200)]
)
def test_traces_say_where_the_server_in_process_stops(engine, temperature, count):
    asked = prompts(count)
    sampling = AnswerSampling(most_tokens=SIZE, temperature=temperature)
    traces = [one.logp_TC for one in engine.watched(asked, sampling)]

    async def served(policies):
        backend = HfBackend(engine)
        try:
            return [
                [
                    parts
                    for start in range(0, count, 200)
                    for parts in await asyncio.gather(
                        *(
                            one(backend, policy, x, draw)
                            for x, draw in numbered[start : start + 200]
                        )
                    )
                ]
                for policy in policies
            ]
        finally:
            await backend.close()

    # a prompt that is asked again gets another draw, as in the traces
    numbered = list(zip(asked, occurrences(asked), strict=True))

    async def one(backend, policy, prompt, draw):
        ids = engine.encoder.begun_answer(prompt, 0, "")
        reply = await backend.open(
            ServeRequest(
                messages=prompt,
                policy=policy,
                policy_digest="",
                sampling=Sampling(
                    max_tokens=SIZE, temperature=temperature, seed=answer_seed(ids, draw)
                ),
            )
        )
        return [part async for part in reply.parts]

    made = monitors(traces, sampling)
    policies = [policy_of(engine, monitor) for monitor in made]
    for policy, replies in zip(policies, asyncio.run(served(policies)), strict=True):
        expected = [first_stop(policy.monitor, trace) for trace in traces]
        found = [next((p.stop for p in parts if p.stop), None) for parts in replies]
        assert not disagreements(expected, found, close_calls(policy.monitor, traces))
        answers = [answer for _, _, answer in engine.answer(asked, policy)]
        for parts, answer in zip(replies, answers, strict=True):
            assert [p.finish is not None for p in parts] == [False] * (len(parts) - 1) + [True]
            at = next((n for n, p in enumerate(parts) if p.stop), len(parts))
            before = sum(p.tokens for p in parts[: at + 1])
            text = whole("".join(p.text for p in parts))
            refusal = whole("".join(p.refusal for p in parts))
            if answer.stop is None:
                assert (text, before) == (whole(answer.text), answer.tokens)
                continue
            assert before == answer.stop.position
            assert not any(p.text for p in parts[at:])
            if policy.writes(answer.stop.column):
                assert refusal == whole(answer.text)
            else:
                assert (refusal, parts[-1].stop) == ("", answer.stop)
