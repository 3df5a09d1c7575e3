"""Decisions on bounded scores: what is settled holds for every score within the bounds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from demur.base.errors import ScoreDoubt
from demur.core.calibrator import Fitted
from demur.core.decision import decide_many
from demur.core.maps.multiclass import Matrix, Temperature
from demur.core.policy import RULES, DoubtRule
from demur.engines.remote.partial_scores import decide_partial
from tests.builders import policies, policy, with_category

K = 3


def logp_of(weights):
    return np.log(np.array(weights) / np.sum(weights))


def listing(p, logp_V, top):
    """The `top` most probable of a vocabulary whose first C tokens are the control tokens."""
    names = [*p.taxonomy.tokens, *(f"word {n}" for n in range(len(logp_V)))][: len(logp_V)]
    order = np.argsort(-logp_V, kind="stable")[:top]
    return {names[i]: float(logp_V[i]) for i in order}


@given(
    p=policies(K, RULES),
    temperature=st.sampled_from((None, 0.5, 3.0)),
    weights=st.lists(
        st.sampled_from((1e-6, 0.01, 0.1, 0.3, 1.0, 3.0)), min_size=K + 4, max_size=K + 4
    ),
    top=st.integers(1, K + 4),
    data=st.data(),
)
def test_what_is_settled_is_what_decide_many_says_of_any_score_within_the_bounds(
    p, temperature, weights, top, data
):
    if temperature is not None:
        p = replace(
            p, calibrator=Fitted(tokens=p.taxonomy.tokens, map=Temperature(temperature=temperature))
        )
    logp_V = logp_of(weights)
    listed = listing(p, logp_V, top)
    try:
        decision, _ = decide_partial(p, listed, p.taxonomy.tokens)
    except ScoreDoubt:
        assume(False)
    tokens = p.taxonomy.tokens
    assert decision.column == decide_many(p, logp_V[None, : K + 1].astype(np.float32)).choice_N[0]
    # Any other share-out of what is left, none of it above the least probable listed token.
    least, left = (
        min(np.exp(v) for v in listed.values()),
        max(0.0, 1 - sum(np.exp(v) for v in listed.values())),
    )
    row_C = []
    for token in tokens:
        if token in listed:
            row_C.append(listed[token])
            continue
        probability = min(least, left) * data.draw(st.sampled_from((0.0, 1e-9, 0.3, 0.999)))
        left -= probability
        row_C.append(max(-1e4, float(np.log(probability))) if probability > 0 else -1e4)
    assert decision.column == decide_many(p, np.array([row_C], dtype=np.float32)).choice_N[0]


def test_a_score_that_is_not_listed_is_in_doubt_only_where_it_matters():
    listed = {"[respond]": np.log(0.9), "a": np.log(0.06), "b": np.log(0.02)}
    for threshold, settled in ((0.5, True), (0.03, True), (0.01, False)):
        p = policy(1, thresholds=[threshold])
        if settled:
            decision, logp_C = decide_partial(p, listed, p.taxonomy.tokens)
            assert not decision.refuses
            assert np.exp(logp_C[1]) == pytest.approx(0.02, rel=1e-4), "reported at its bound"
        else:
            with pytest.raises(ScoreDoubt, match="leaves"):
                decide_partial(p, listed, p.taxonomy.tokens)


def test_a_calibrator_that_mixes_scores_settles_nothing_unless_all_are_listed():
    p = policy(1, thresholds=[0.5])
    mixed = Fitted(
        tokens=p.taxonomy.tokens, map=Matrix(weights=((1.0, 0.5), (0.0, 1.0)), offsets=(0.0, 0.0))
    )
    p = replace(p, calibrator=mixed)
    assert (
        decide_partial(p, {"[respond]": -0.1, "[safety]": -3.0}, p.taxonomy.tokens)[0].choice
        == "respond"
    )
    with pytest.raises(ScoreDoubt, match="mixes"):
        decide_partial(p, {"[respond]": -0.1}, p.taxonomy.tokens)


def test_nothing_is_in_doubt_where_a_category_is_forced():
    p = with_category(policy(1, thresholds=[0.0]), 0, override="force")
    assert decide_partial(p, {"x": -0.1}, p.taxonomy.tokens)[0].column == 1


def test_no_control_token_among_the_listed_is_no_score_even_where_none_may_be_emitted():
    p = with_category(policy(1, thresholds=[0.0]), 0, override="suppress")
    with pytest.raises(ScoreDoubt, match="outside the control tokens"):
        decide_partial(p, {"x": -0.1}, p.taxonomy.tokens)
    assert decide_partial(p, {"[respond]": -0.1}, p.taxonomy.tokens)[0].column == 0


def test_leftover_mass_that_may_be_above_the_bound_settles_nothing():
    # [safety]: at most .1, .45 to .55 are off
    listed = {"[respond]": np.log(0.45), "a": np.log(0.3), "b": np.log(0.1)}
    for bound, settled in ((0.6, True), (0.5, False), (0.4, True)):
        p = replace(policy(1), doubt=DoubtRule(most_leftover=bound))
        if settled:
            assert decide_partial(p, listed, p.taxonomy.tokens)[0].doubt == (bound == 0.4)
        else:
            with pytest.raises(ScoreDoubt, match="leaves"):
                decide_partial(p, listed, p.taxonomy.tokens)
    with pytest.raises(ScoreDoubt, match="outside the control tokens"):
        decide_partial(
            replace(policy(1), doubt=DoubtRule(most_leftover=0.4, then="error")),
            listed,
            p.taxonomy.tokens,
        )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 0.2])
@pytest.mark.parametrize("at", ["[respond]", "[safety]", "word"])
def test_what_is_no_log_probability_is_doubt_wherever_it_is_listed(value, at):
    p = policy(1, thresholds=[0.5])
    with pytest.raises(ScoreDoubt, match="no log-probabilities"):
        decide_partial(
            p, {"[respond]": -0.7, "[safety]": -5.0, "word": -1.0, at: value}, p.taxonomy.tokens
        )


def test_a_list_that_sums_above_one_is_doubt():
    p = policy(1, thresholds=[0.5])
    with pytest.raises(ScoreDoubt, match="no log-probabilities"):
        decide_partial(p, {"[respond]": -0.1, "[safety]": -0.1}, p.taxonomy.tokens)
