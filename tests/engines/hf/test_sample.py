"""Drawing the next token of many rows at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from demur.core.serving import Sampling
from demur.engines.hf.sample import next_tokens

GREEDY = Sampling(temperature=0.0)


def logits(seed, rows=6, vocabulary=40):
    return torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed)) * 3


@given(seed=st.integers(0, 2**31), data=st.data())
def test_a_row_depends_on_itself_alone(seed, data):
    logits_RV = logits(seed)
    sampling = st.builds(
        Sampling, temperature=st.sampled_from([0.0, 0.3, 1.0, 2.0]), top_p=st.floats(0, 1)
    )
    samplings = [data.draw(sampling) for _ in logits_RV]
    draws = [data.draw(st.floats(0, 1, exclude_max=True)) for _ in logits_RV]
    together = next_tokens(logits_RV, samplings, draws)
    alone = [
        next_tokens(logits_RV[r : r + 1], [samplings[r]], [draws[r]])[0]
        for r in range(len(logits_RV))
    ]
    assert together == alone


@given(seed=st.integers(0, 2**31), draw=st.floats(0, 1, exclude_max=True), top_p=st.floats(0, 1))
def test_only_the_nucleus_is_drawn_from_and_never_a_banned_id(seed, draw, top_p):
    logits_RV = logits(seed, rows=1)
    logits_RV[0, ::3] = -torch.inf
    (token,) = next_tokens(logits_RV, [Sampling(top_p=top_p)], [draw])
    p_V = torch.softmax(logits_RV[0].double(), dim=0)
    assert p_V[token] > 0
    assert p_V[p_V > p_V[token]].sum() < top_p or token == int(p_V.argmax())


@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(temperature=0.5), Sampling(top_p=0.999999)]
)
def test_tokens_are_drawn_with_their_probability(sampling):
    logits_V = logits(1, rows=1, vocabulary=5)[0]
    draws = np.random.default_rng(0).random(20_000)
    tokens = next_tokens(logits_V.expand(len(draws), -1), [sampling] * len(draws), draws.tolist())
    p_V = torch.softmax(logits_V.double() / sampling.temperature, dim=0).numpy()
    np.testing.assert_allclose(np.bincount(tokens, minlength=5) / len(draws), p_V, atol=0.012)


def test_temperature_zero_and_near_zero_take_the_most_probable():
    logits_RV = logits(3)
    best = logits_RV.argmax(dim=1).tolist()
    for sampling in (
        GREEDY,
        Sampling(temperature=1e-30),
        Sampling(temperature=1e-4),
        Sampling(top_p=0.0),
    ):
        assert next_tokens(logits_RV, [sampling] * 6, [0.7] * 6) == best
