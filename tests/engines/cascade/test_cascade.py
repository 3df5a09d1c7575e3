"""A cascade as scorer and as backend, over the fake engine."""

import asyncio
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from demur.base.errors import BackendDown, PolicyError, ScoreDoubt
from demur.core.cascade.front import FrontEdges
from demur.core.decision import decide
from demur.core.policy import GENERATE, DoubtRule, natural
from demur.core.serving import ServeRequest
from demur.core.taxonomy import coconot
from demur.engines.cascade.backend import CascadeBackend
from demur.engines.cascade.scorer import CascadeScorer
from demur.engines.fake.backend import FakeBackend
from tests.contract.test_decides import random_policy
from tests.front_parts import Counted, front, model, texts, user, wide_range, with_edges

DIGEST = "sha256:" + "a" * 64
# of everything it reads
SURE = with_edges(front(), FrontEdges(answer=math.inf, refuse=None), wide_range())
UNSURE = with_edges(front(), FrontEdges(answer=None, refuse=None))
PLAIN = natural(coconot(), model().fingerprint.behind(DIGEST))
TOOL = {"type": "function", "function": {"name": "find", "parameters": {}}}
TEXTS = texts(60, 31)


class Watched(FakeBackend):
    """Remembers the requests that reached it."""

    async def open(self, ask):
        self.asks.append(ask)
        return await FakeBackend.open(self, ask)


def backend(made):
    behind = Watched(engine=model())
    behind.asks = []
    return CascadeBackend(made, DIGEST, behind), behind


def opened(made, text, policy=PLAIN, **fields):
    """(reply, its text, the requests that reached the backend behind)."""
    cascade, behind = backend(made)

    async def run():
        reply = await cascade.open(
            ServeRequest(messages=user(text), policy=policy, policy_digest="d", **fields)
        )
        return reply, "".join([part.text async for part in reply.parts])

    reply, said = asyncio.run(run())
    return reply, said, behind.asks


def test_the_scorer_asks_the_model_only_for_what_the_front_hands_over():
    counted = Counted(model())
    scorer = CascadeScorer(front=front(), digest=DIGEST, model=counted)
    prompts = [user(t) for t in TEXTS]
    logp_NC = scorer.logp(prompts)
    assert scorer.fingerprint.front == DIGEST
    assert scorer.asked == len(prompts)
    assert 0 < scorer.by_front == len(prompts) - len(counted.asked)
    for prompt, logp_C in zip(prompts, logp_NC, strict=True):
        expected = front().given(prompt)
        assert np.array_equal(logp_C, model().logp([prompt])[0] if expected is None else expected)


def test_a_scorer_without_prompts_has_no_scores():
    assert CascadeScorer(front=front(), digest=DIGEST, model=model()).logp([]).shape == (0, 6)


@settings(deadline=None)
@given(seed=st.integers(0, 400), text=st.sampled_from(TEXTS))
def test_whatever_the_policy_the_decision_is_its_own_on_the_score_that_counts(seed, text):
    p_NC = np.exp(model().logp([user(t) for t in TEXTS]))
    policy = replace(random_policy(seed, p_NC), fingerprint=PLAIN.fingerprint)
    for made in (SURE, UNSURE):
        given_C = made.given(user(text))
        counts_C = model().logp([user(text)])[0] if given_C is None else given_C
        try:
            reply, said, asks = opened(made, text, policy)
        except ScoreDoubt:
            assert decide(policy, counts_C).doubt
            continue
        assert reply.decision == decide(policy, counts_C)
        assert np.array_equal(reply.logp_C, counts_C)
        assert reply.by_front == (given_C is not None)
        wanted = [[reply.decision.column]] if asks else []
        texts_ = (
            [model().branches([user(text)], wanted)[0][reply.decision.column].text]
            if asks
            else [""]
        )
        assert said == texts_[0]


def test_a_refusal_with_the_operators_text_costs_no_model():
    silent = replace(PLAIN, categories=tuple(replace(c, on_refuse="No.") for c in PLAIN.categories))
    reply, said, asks = opened(SURE, "moner safety ralat.", silent)
    assert (reply.decision.choice, said, asks, reply.by_front) == ("safety", "", [], True)
    reply, said, asks = opened(SURE, "moner ralat.", silent)
    assert reply.decision.choice == "respond"
    assert len(asks) == 1
    assert said


def test_a_refusal_of_the_models_own_is_written_after_the_category_that_the_front_chose():
    reply, said, asks = opened(SURE, "moner safety ralat.")
    assert reply.decision.choice == "safety"
    assert PLAIN.category("safety").on_refuse == GENERATE
    assert said.startswith("I won't help")
    assert [c.override for c in asks[0].policy.categories].count("force") == 1


def test_what_is_only_to_be_decided_costs_no_model():
    _, _, asks = opened(SURE, "moner ralat.", answers=False)
    assert asks == []


@pytest.mark.parametrize("fields", [{"tools": (TOOL,), "tool_choice": "auto"}, {"json_schema": {}}])
def test_requests_with_tools_or_schemas_are_the_models(fields):
    reply, _, asks = opened(SURE, "moner ralat.", **fields)
    assert not reply.by_front
    assert len(asks) == 1
    assert np.array_equal(reply.logp_C, model().logp([user("moner ralat.")])[0])


def test_a_policy_of_the_model_alone_or_of_another_front_is_refused():
    for fingerprint in (model().fingerprint, model().fingerprint.behind("sha256:other")):
        with pytest.raises(PolicyError, match="cascade"):
            opened(SURE, "moner ralat.", replace(PLAIN, fingerprint=fingerprint))


def test_doubt_counts_as_the_policy_says():
    strict = replace(PLAIN, doubt=DoubtRule(most_leftover=0.0))
    reply, _, _ = opened(SURE, "moner ralat.", strict)
    assert reply.decision.doubt
    assert reply.decision.refuses
    with pytest.raises(ScoreDoubt):
        opened(
            SURE, "moner ralat.", replace(PLAIN, doubt=DoubtRule(most_leftover=0.0, then="error"))
        )


def test_a_backend_that_does_not_keep_to_the_decision_is_not_believed():
    class Stubborn(FakeBackend):
        async def open(self, ask):
            free = tuple(replace(c, override=None) for c in ask.policy.categories)
            return await FakeBackend.open(
                self, replace(ask, policy=replace(ask.policy, categories=free))
            )

    cascade = CascadeBackend(SURE, DIGEST, Stubborn(engine=model()))
    lax = replace(
        PLAIN,
        rule="heaviest",
        categories=tuple(replace(c, threshold=math.inf) for c in PLAIN.categories),
    )
    strict = replace(lax, categories=tuple(replace(c, threshold=0.0) for c in lax.categories))
    ask = ServeRequest(messages=user("moner safety ralat."), policy=strict, policy_digest="d")
    asyncio.run(cascade.open(ask))  # both refuse
    odd = replace(
        strict, categories=tuple(replace(c, override="suppress") for c in strict.categories)
    )
    with pytest.raises(BackendDown, match="'safety', and 'respond' was decided"):
        asyncio.run(cascade.open(replace(ask, policy=odd)))
