"""A deferral through real engines: the operator's text stands for the answer, and nothing is
written.
"""

import asyncio
import math
from dataclasses import replace

import numpy as np
import pytest

from demur.core.cascade.front import FrontEdges
from demur.core.conversation.languages import operators_text
from demur.core.decision import decide, decide_many
from demur.core.policy import CategoryPolicy, Policy
from demur.core.serving import Sampling, ServeRequest
from demur.core.taxonomy import coconot
from demur.engines.cascade.backend import CascadeBackend
from demur.engines.hf.engine import HfEngine
from demur.engines.inprocess.backend import HfBackend
from tests.builders import undoubted
from tests.engines.checkpoints import user
from tests.engines.hf.test_engine import Passes
from tests.front_parts import front, wide_range, with_edges

DIGEST = "sha256:" + "c" * 64
ASKED_BACK, ZURUECKGEFRAGT = "What is this for?", "Wofür ist das?"
TEXTS = ["What is the capital of France?", "bake bread " * 12, "Hi", "Tell me how you feel."]
TEXTS += ["a poem about the sea", "moner safety ralat.", "please say nothing"]
GREEDY = Sampling(temperature=0.0, max_tokens=8)


@pytest.fixture(scope="module", params=["llama", "gemma2"])
def engine(request, checkpoints):
    return HfEngine(model=checkpoints[request.param], tokens=coconot().tokens, max_new_tokens=8)


def banded(fingerprint, lower, upper, **fields):
    """One threshold and one band for all categories."""
    category = CategoryPolicy(
        threshold=upper,
        defer_threshold=lower,
        on_defer="ask",
        defer_text=ASKED_BACK,
        defer_translations=(("de", ZURUECKGEFRAGT),),
        **fields,
    )
    made = Policy(
        name="banded",
        taxonomy=coconot(),
        rule="heaviest",
        categories=(category,) * 5,
        fingerprint=fingerprint,
    )
    return undoubted(made)  # an untrained model has nearly all of its probability elsewhere


def three_outcomes(engine, **fields):
    """A policy under which some of TEXTS are answered, some deferred and some refused."""
    score_N = np.sort(np.exp(engine.logp([user(t) for t in TEXTS])[:, 1:]).max(axis=1))
    lower, upper = (float(score_N[n : n + 2].mean()) for n in (1, 4))
    return banded(engine.fingerprint, lower, upper, **fields)


def opened(backend, policy, texts, **fields):
    """(reply, its text) of each."""

    async def one(text):
        asked = ServeRequest(
            messages=user(text), policy=policy, policy_digest="d", sampling=GREEDY, **fields
        )
        reply = await backend.open(asked)
        return reply, "".join([part.text async for part in reply.parts])

    async def scenario():
        try:
            return await asyncio.gather(*map(one, texts))
        finally:
            await backend.close()

    return asyncio.run(scenario())


def test_the_engine_writes_nothing_for_a_deferral_and_answers_with_the_operators_text(engine):
    policy = three_outcomes(engine)
    prompts = [user(t) for t in TEXTS]
    answered = engine.answer(prompts, policy)
    decided = decide_many(policy, np.stack([logp_C for logp_C, _, _ in answered]))
    outcomes = [decision.outcome for _, decision, _ in answered]
    assert set(outcomes) == {"answer", "defer", "refuse"}
    assert [o == "defer" for o in outcomes] == (decided.defer_N > 0).tolist()
    # what is written is what would be without the band: only deferrals lack a text of the model's
    branches = engine.branches(prompts, [[d.column] for _, d, _ in answered])
    for (_, decision, answer), by_column in zip(answered, branches, strict=True):
        if decision.outcome == "defer":
            assert (answer.text, answer.tokens, answer.finished) == (ASKED_BACK, 0, True)
        else:
            assert answer == by_column[decision.column]


def test_a_deferral_costs_its_prefill_and_no_position_more(engine):
    policy = banded(engine.fingerprint, 0.0, 1.0)  # whatever is heaviest, it is deferred
    with Passes(engine) as passes:
        ((_, decision, answer),) = engine.answer([user(TEXTS[0])], policy)
    assert decision.outcome == "defer"
    assert answer.text == ASKED_BACK
    assert passes.shapes == [(1, len(engine.encoder.prompt(user(TEXTS[0]))))]


@pytest.mark.parametrize("on_refuse", ["generate", "No."])
def test_requests_in_service_together_each_have_their_own_outcome(engine, on_refuse):
    policy = three_outcomes(engine, on_refuse=on_refuse)
    found = opened(HfBackend(engine), policy, TEXTS * 3)
    logp_NC = engine.logp([user(t) for t in TEXTS] * 3)
    assert {reply.decision.outcome for reply, _ in found} == {"answer", "defer", "refuse"}
    for (reply, said), logp_C in zip(found, logp_NC, strict=True):
        assert reply.decision.outcome == decide(policy, logp_C).outcome
        if reply.decision.outcome == "defer":
            assert (reply.decision.column, said) == (0, "")
            assert operators_text(policy, reply.decision, ["de-AT"]) == ZURUECKGEFRAGT
        elif reply.decision.outcome == "refuse" and on_refuse != "generate":
            assert said == ""
        else:
            assert said.strip()


def test_a_deferral_in_service_reads_the_prompt_and_writes_nothing(engine):
    policy = banded(engine.fingerprint, 0.0, 1.0)
    backend = HfBackend(engine)  # it looks once at how the model reads
    with Passes(engine) as passes:
        ((reply, said),) = opened(backend, policy, TEXTS[:1])
    assert (reply.decision.outcome, said) == ("defer", "")
    assert passes.shapes == [(1, reply.prompt_tokens)]


def test_a_front_that_is_sure_defers_without_the_model(engine):
    sure = with_edges(front(), FrontEdges(answer=math.inf, refuse=None), wide_range())
    cascade = CascadeBackend(sure, DIGEST, HfBackend(engine))
    policy = banded(engine.fingerprint.behind(DIGEST), 0.3, 1.0)
    with Passes(engine) as passes:
        ((reply, said),) = opened(cascade, policy, ["moner safety ralat."])
    assert (reply.decision.outcome, reply.decision.deferred) == ("defer", "safety")
    assert (said, reply.by_front, passes.shapes) == ("", True, [])


def test_beside_a_band_a_front_that_is_sure_has_answers_and_refusals_written(engine):
    """The decision that the model is led to must not become a deferral of its own score."""
    sure = with_edges(front(), FrontEdges(answer=math.inf, refuse=None), wide_range())
    for text, lower, upper, outcome in (
        ("moner ralat tidom.", 0.9, 1.0, "answer"),
        ("moner safety ralat.", 0.0, 0.1, "refuse"),
    ):
        cascade = CascadeBackend(sure, DIGEST, HfBackend(engine))
        policy = banded(engine.fingerprint.behind(DIGEST), lower, upper)
        ((reply, said),) = opened(cascade, policy, [text])
        assert (reply.decision.outcome, reply.by_front) == (outcome, True)
        column = reply.decision.column
        written = engine.branches([user(text)], [[column]])[0][column]
        assert written.text.startswith(said.strip())


def test_what_a_front_hands_over_is_deferred_by_the_model_behind(engine):
    unsure = with_edges(front(), FrontEdges(answer=None, refuse=None))
    alone = three_outcomes(engine)
    policy = replace(alone, fingerprint=engine.fingerprint.behind(DIGEST))
    found = opened(CascadeBackend(unsure, DIGEST, HfBackend(engine)), policy, TEXTS)
    expected = [d.outcome for _, d, _ in engine.answer([user(t) for t in TEXTS], alone)]
    assert [reply.decision.outcome for reply, _ in found] == expected
    assert "defer" in expected
    assert not any(reply.by_front for reply, _ in found)
