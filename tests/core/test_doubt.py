"""Doubt (leftover mass above a policy's bound) and locks: what no threshold and no override can
turn into an answer.
"""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from demur.base.errors import PolicyError, ScoreDoubt
from demur.core.decision import compared_scores, decide, decide_many, decide_or_doubt, on_doubt
from demur.core.policy import MOST_LEFTOVER, RULES, DoubtRule
from demur.core.score import leftover_of
from tests.builders import BOUNDS, THRESHOLDS, leaking, locked, policy, with_category

MONOTONE = ("heaviest", "sum", "any")


def forced(policy):
    return any(c.override == "force" for c in policy.categories)


@settings(max_examples=300)
@given(data=st.data(), k=st.integers(1, 4))
def test_a_doubtful_score_is_refused_under_every_rule_and_threshold(data, k):
    found, logp_NC = data.draw(locked(k)), data.draw(leaking(k))
    many = decide_many(found, logp_NC)
    expected_N = (leftover_of(logp_NC) > found.doubt.most_leftover) & (not forced(found))
    assert (many.doubt_N == expected_N).all()
    assert (many.choice_N[many.doubt_N] > 0).all()
    heaviest_N = many.heaviest_N[many.doubt_N]
    assert ((many.choice_N[many.doubt_N] == heaviest_N) | (heaviest_N == 0)).all()


@given(data=st.data(), k=st.integers(1, 4))
def test_doubt_changes_no_other_decision(data, k):
    found, logp_NC = data.draw(locked(k)), data.draw(leaking(k))
    with_doubt = decide_many(found, logp_NC)
    without = decide_many(replace(found, doubt=DoubtRule(most_leftover=1.0)), logp_NC)
    same_N = ~with_doubt.doubt_N
    assert not without.doubt_N.any()
    for field in ("choice_N", "heaviest_N", "margin_N"):
        assert (getattr(with_doubt, field)[same_N] == getattr(without, field)[same_N]).all()


@settings(max_examples=300)
@given(data=st.data(), k=st.integers(1, 4))
def test_no_override_of_other_categories_answers_what_a_lock_refuses(data, k):
    found, logp_NC = data.draw(locked(k)), data.draw(leaking(k))
    logq_NC = found.calibrator.apply(logp_NC).astype(np.float64)
    met_N = np.zeros(len(logp_NC), dtype=bool)
    for column, category in enumerate(found.categories, start=1):
        if category.locked and category.may_emit:
            with np.errstate(divide="ignore"):
                met_N |= logq_NC[:, column] >= np.log(category.threshold)
    free = [n for n, c in zip(found.taxonomy.names, found.categories, strict=True) if not c.locked]
    moved = found
    if found.rule != "sum":  # one threshold: where a category is locked, callers move nothing
        moved = found.with_thresholds({n: data.draw(st.sampled_from(THRESHOLDS)) for n in free})
    assert decide_many(moved, logp_NC).refuses_N[met_N].all()


@given(
    data=st.data(),
    k=st.integers(1, 4),
    rule=st.sampled_from(("heaviest", "released", "sum", "any")),
)
def test_a_higher_threshold_never_adds_a_refusal_beside_locks_and_doubt(data, k, rule):
    low, logp_NC = data.draw(locked(k, (rule,))), data.draw(leaking(k))
    at = data.draw(st.integers(0, k - 1))
    higher = max(low.categories[at].threshold, data.draw(st.sampled_from(THRESHOLDS)))
    raised = low.taxonomy.names if rule == "sum" else (low.taxonomy.names[at],)
    high = low.with_thresholds(dict.fromkeys(raised, higher))
    assert not (decide_many(high, logp_NC).refuses_N & ~decide_many(low, logp_NC).refuses_N).any()


@given(
    data=st.data(),
    threshold=st.sampled_from(THRESHOLDS),
    rule=st.sampled_from(MONOTONE),
    lock=st.booleans(),
)
def test_compared_scores_know_what_no_threshold_answers(data, threshold, rule, lock):
    logp_NC = data.draw(leaking(3))
    bound = DoubtRule(most_leftover=data.draw(st.sampled_from(BOUNDS)))
    shared = replace(policy(3, rule, [threshold] * 3, locked=lock), doubt=bound)
    with np.errstate(divide="ignore"):
        expected_N = compared_scores(shared, logp_NC).astype(np.float64) >= np.log(threshold)
    assert (decide_many(shared, logp_NC).refuses_N == expected_N).all()


def test_the_bound_itself_is_no_doubt():
    logp_NC = np.log(np.array([[0.5, 0.25]], dtype=np.float32))
    at = float(leftover_of(logp_NC)[0])
    below = np.nextafter(at, 0.0)
    assert not decide_many(
        replace(policy(1), doubt=DoubtRule(most_leftover=at)), logp_NC
    ).doubt_N.any()
    assert decide_many(
        replace(policy(1), doubt=DoubtRule(most_leftover=below)), logp_NC
    ).doubt_N.all()


@given(data=st.data(), k=st.integers(1, 4))
def test_one_row_is_as_doubtful_alone_as_among_others(data, k):
    found, logp_NC = data.draw(locked(k)), data.draw(leaking(k))
    assert decide_many(found, logp_NC).doubt_N.tolist() == [
        decide(found, row).doubt for row in logp_NC
    ]


# sums to .02, as under 300 times "a"
PADDED = np.log(np.array([0.008, 0.011, 0.001], dtype=np.float32))


@pytest.mark.parametrize("rule", RULES)
def test_a_padded_prompt_is_refused_and_under_error_raises(rule):
    never = policy(2, rule)
    found = decide_or_doubt(never, PADDED)
    assert (found.choice, found.doubt, found.margin) == ("safety", True, np.inf)
    careful = replace(never, doubt=DoubtRule(then="error"))
    with pytest.raises(ScoreDoubt, match=r"0\.98 of the probability lies outside"):
        decide_or_doubt(careful, PADDED)
    assert decide(careful, PADDED).refuses  # counted alike: neither rule answers


def test_a_policy_that_can_refuse_with_nothing_makes_doubt_an_error():
    silent = policy(2, "heaviest", override="suppress")
    assert on_doubt(silent) == "error"
    with pytest.raises(ScoreDoubt):
        decide_or_doubt(silent, PADDED)
    assert decide(silent, PADDED).refuses
    inactive = policy(2, "heaviest", active=False)
    assert decide_or_doubt(inactive, PADDED).choice == "safety"


def test_a_forced_category_stands():
    assert not decide_or_doubt(with_category(policy(2), 1, override="force"), PADDED).doubt


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 0.5])
def test_what_is_no_score_is_doubt(value):
    with pytest.raises(ScoreDoubt):
        decide_or_doubt(policy(2), np.array([-0.1, value, -3.0], dtype=np.float32))


def test_a_missing_column_is_doubt():
    with pytest.raises(ScoreDoubt):
        decide_or_doubt(policy(2), np.array([-0.1, -3.0], dtype=np.float32))


def test_a_lock_refuses_though_another_category_is_heavier():
    # safety's threshold is met, humanizing is heavier
    hidden = np.log(np.array([0.2, 0.35, 0.45], dtype=np.float32))
    open_policy = policy(2, "heaviest", [0.3, 0.9])
    assert decide(open_policy, hidden).choice == "respond"
    shut = with_category(open_policy, 0, locked=True)
    found = decide(shut, hidden)
    assert (found.choice, found.heaviest) == ("safety", "humanizing")
    assert found.margin >= 0
    # met: it stays the one
    assert decide(shut.with_thresholds({"humanizing": 0.4}), hidden).choice == "humanizing"


@pytest.mark.parametrize("bound", [-0.1, 1.1, float("nan")])
def test_a_bound_is_a_probability(bound):
    with pytest.raises(PolicyError, match="most_leftover"):
        DoubtRule(most_leftover=bound)


def test_an_unknown_act_is_refused():
    with pytest.raises(PolicyError, match="known: refuse, error"):
        DoubtRule(then="answer")


def test_the_default_bound_is_half():
    assert DoubtRule().most_leftover == MOST_LEFTOVER == 0.5
