import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from demur.base.errors import DataError
from demur.core.rates import upper_bound
from demur.stats.text.front_edges import MISS, HeldOutPrompts, choose_edges
from demur.stats.text.front_fit import FEWEST, fit_linear, fit_range
from tests.builders import log_softmax
from tests.front_parts import front, model, texts, user


def test_few_rows_teach_no_front():
    with pytest.raises(
        DataError, match=rf"{FEWEST - 1} rows of traffic to fit on, expected {FEWEST}"
    ):
        fit_linear(["a"] * (FEWEST - 1), np.zeros((FEWEST - 1, 3), dtype=np.float32))


def test_the_front_learns_the_leftover_mass_too():
    prompts = [user(t) for t in texts(300, 21)]
    rng = np.random.default_rng(0)
    logits_NC = rng.normal(size=(300, 4)) + np.array([2.0, 0.0, 0.0, 1.5])
    logp_NC = np.ascontiguousarray(log_softmax(logits_NC)[:, :-1])
    linear = fit_linear([p[-1].content for p in prompts], logp_NC).linear
    left = np.mean([np.exp(linear.logp(t.split()))[-1] for t in texts(50, 22)])
    assert abs(left - (1.0 - np.exp(logp_NC).sum(axis=1)).mean()) < 0.05


def test_rare_words_and_characters_are_not_known():
    fitted = [user(t) for t in [*texts(50, 1), "moner q\u00fcx ralat."]]
    own = fit_range(fitted, [user(t) for t in texts(50, 2)])
    assert "\u00fc" not in own.letters
    assert own.most_words == 14
    assert own.systems == {""}


@given(
    seed=st.integers(0, 300), bound=st.sampled_from([0.01, 0.05, 0.2]), noise=st.floats(0.0, 3.0)
)
def test_beyond_an_edge_front_and_model_disagree_at_most_so_often(seed, bound, noise):
    rng = np.random.default_rng(seed)
    odds_N = rng.normal(scale=3.0, size=400)
    refuses_N = odds_N + noise * rng.normal(size=400) >= 0.0
    held = HeldOutPrompts(
        odds_N=odds_N,
        risk_N=odds_N + rng.exponential(0.3, size=400),
        both_answer_N=~refuses_N & (odds_N < 0.0),
        both_refuse_N=refuses_N & (odds_N >= 0.0),
    )
    chosen = choose_edges(held, bound)
    for edge, rate in (
        (chosen.edges.answer, chosen.answered),
        (chosen.edges.refuse, chosen.refused),
    ):
        if edge is None:
            assert rate.of == 0
        else:
            assert rate.of > 0
            assert upper_bound(rate.hits, rate.of, MISS) <= bound + 1e-9
    if chosen.edges.answer is not None:
        assert int((held.risk_N <= chosen.edges.answer).sum()) == chosen.answered.of
    if None not in (chosen.edges.answer, chosen.edges.refuse):
        assert chosen.edges.answer < chosen.edges.refuse


def test_a_front_that_learnt_nothing_is_sure_of_nothing():
    rng = np.random.default_rng(0)
    refuses_N = rng.random(500) < 0.5
    odds_N = rng.normal(size=500)
    held = HeldOutPrompts(
        odds_N=odds_N, risk_N=odds_N, both_answer_N=~refuses_N, both_refuse_N=refuses_N
    )
    chosen = choose_edges(held, 0.05)
    assert (chosen.edges.answer, chosen.edges.refuse) == (None, None)


def test_without_rows_there_is_no_edge():
    none_N = np.zeros(0)
    held = HeldOutPrompts(
        odds_N=none_N, risk_N=none_N, both_answer_N=none_N > 0, both_refuse_N=none_N > 0
    )
    assert choose_edges(held, 0.1).edges.answer is None


def test_the_same_traffic_gives_the_same_front():
    prompts = texts(300, 5)
    logp_NC = model().logp([user(t) for t in prompts])
    first, second = fit_linear(prompts, logp_NC), fit_linear(prompts, logp_NC)
    assert first.linear.place == second.linear.place
    assert np.array_equal(first.linear.weight_FC, second.linear.weight_FC)
    assert front().taught_by == model().fingerprint
