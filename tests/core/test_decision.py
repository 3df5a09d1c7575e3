import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from demur.base.errors import ScoreError
from demur.core.decision import compared_scores, decide, decide_many
from demur.core.policy import RULES
from tests.builders import THRESHOLDS, log_softmax, logp, policies, policy, with_category

MONOTONE = ("heaviest", "sum", "any")


def logit(p):
    return math.inf if p >= 1 else -math.inf if p <= 0 else math.log(p / (1 - p))


def heaviest_of(columns, value):
    return max(columns, key=lambda k: (value[k], -k))


def met_by(logq, threshold):
    return logq >= (math.log(threshold) if threshold > 0 else -math.inf)


def most_probable(policy, logq, columns):
    """Rules natural and bias, and released outside S."""
    biased = [
        v + b
        for v, b in zip(
            logq, (0.0, *(c.bias * (policy.rule == "bias") for c in policy.categories)), strict=True
        )
    ]
    best = heaviest_of(columns, biased)
    return {best if biased[best] >= biased[0] else 0}


def by_sum(policy, logq, columns):
    total = math.fsum(math.exp(logq[k]) for k in columns)
    threshold = policy.categories[columns[0] - 1].threshold
    refused = {heaviest_of(columns, logq)}
    return (
        refused | {0} if abs(total - threshold) < 1e-6 else refused if total >= threshold else {0}
    )


def by_widest_margin(policy, logq, columns):
    threshold = {k: policy.categories[k - 1].threshold for k in columns}
    margins = {
        k: logit(math.exp(logq[k])) - logit(threshold[k])
        for k in columns
        if met_by(logq[k], threshold[k])
    }
    margins = {k: 0.0 if math.isnan(m) else m for k, m in margins.items()}
    return {k for k, m in margins.items() if m >= max(margins.values()) - 1e-5} or {0}


def allowed_choices(policy, logp_C):
    """Columns that the specification allows, straight from its words; two where rounding may settle
    it either way.
    """
    rule, categories, logq = policy.rule, policy.categories, [float(v) for v in logp_C]
    forced = {k for k, c in enumerate(categories, start=1) if c.override == "force"}
    looks_at_all = rule in ("natural", "released")
    columns = [
        k
        for k, c in enumerate(categories, 1)
        if c.override != "suppress" and (c.active or looks_at_all)
    ]
    if forced or not columns:
        return forced or {0}
    heaviest = heaviest_of(columns, logq)
    if rule in ("natural", "bias") or (rule == "released" and not categories[heaviest - 1].active):
        return most_probable(policy, logq, columns)
    if rule in ("sum", "any"):
        return (by_sum if rule == "sum" else by_widest_margin)(policy, logq, columns)
    return {heaviest if met_by(logq[heaviest], categories[heaviest - 1].threshold) else 0}


@settings(max_examples=400)
@given(data=st.data(), k=st.integers(1, 4))
def test_every_rule_decides_as_a_plain_loop_over_its_definition(data, k):
    policy = data.draw(policies(k, RULES))
    logp_NC = data.draw(logp(k))
    choice_N = decide_many(policy, logp_NC).choice_N
    for n, row in enumerate(logp_NC):
        assert int(choice_N[n]) in allowed_choices(policy, row)


@given(
    data=st.data(),
    k=st.integers(1, 4),
    rule=st.sampled_from(("heaviest", "released", "sum", "any")),
)
def test_a_higher_threshold_never_adds_a_refusal(data, k, rule):
    low = data.draw(policies(k, (rule,)))
    logp_NC = data.draw(logp(k))
    at = data.draw(st.integers(0, k - 1))
    higher = max(low.categories[at].threshold, data.draw(st.sampled_from(THRESHOLDS)))
    raised = low.taxonomy.names if rule == "sum" else (low.taxonomy.names[at],)
    high = low.with_thresholds(dict.fromkeys(raised, higher))
    assert not (decide_many(high, logp_NC).refuses_N & ~decide_many(low, logp_NC).refuses_N).any()


@given(data=st.data(), k=st.integers(1, 4), rule=st.sampled_from(RULES))
def test_a_refusal_is_a_margin_of_at_least_zero(data, k, rule):
    many = decide_many(data.draw(policies(k, (rule,))), data.draw(logp(k)))
    assert ((many.margin_N >= 0) == many.refuses_N).all()


@given(data=st.data(), k=st.integers(1, 4), rule=st.sampled_from(RULES))
def test_one_prompt_is_decided_as_many_are(data, k, rule):
    policy, logp_NC = data.draw(policies(k, (rule,))), data.draw(logp(k))
    many = decide_many(policy, logp_NC)
    for n, row in enumerate(logp_NC):
        one = decide(policy, row)
        assert (one.column, one.margin, one.refuses) == (
            many.choice_N[n],
            many.margin_N[n],
            bool(many.refuses_N[n]),
        )
        assert policy.taxonomy.choices[one.column] == one.choice


@given(logp_NC=logp(3), threshold=st.sampled_from(THRESHOLDS), rule=st.sampled_from(MONOTONE))
def test_compared_scores_are_what_a_shared_threshold_is_compared_with(logp_NC, threshold, rule):
    shared = policy(3, rule, [threshold] * 3)
    with np.errstate(divide="ignore"):
        expected_N = compared_scores(shared, logp_NC).astype(np.float64) >= np.log(threshold)
    assert (decide_many(shared, logp_NC).refuses_N == expected_N).all()


@given(logp_NC=logp(1), threshold=st.sampled_from(THRESHOLDS), active=st.booleans())
def test_with_one_category_heaviest_any_and_sum_agree(logp_NC, threshold, active):
    choices = [
        decide_many(policy(1, r, [threshold], active=active), logp_NC).choice_N.tolist()
        for r in MONOTONE
    ]
    assert choices[0] == choices[1] == choices[2]


@given(logp_NC=logp(4), threshold=st.sampled_from(THRESHOLDS))
def test_released_is_heaviest_when_every_category_is_active_and_the_threshold_shared(
    logp_NC, threshold
):
    released, heaviest = (
        decide_many(policy(4, r, [threshold] * 4), logp_NC) for r in ("released", "heaviest")
    )
    assert released.choice_N.tolist() == heaviest.choice_N.tolist()


@given(difference=st.floats(-20, 20), bias=st.floats(-15, 15))
def test_a_bias_on_the_pair_is_the_threshold_sigma_of_minus_the_bias(difference, bias):
    # further apart than the float32 scores are from the real numbers
    assume(abs(difference + bias) > 1e-3)
    logp_NC = log_softmax([[0.0, difference]])
    by_bias = decide_many(policy(1, "bias", bias=bias), logp_NC)
    by_threshold = decide_many(policy(1, "heaviest", [1 / (1 + math.exp(bias))]), logp_NC)
    assert by_bias.choice_N.tolist() == by_threshold.choice_N.tolist()


@pytest.mark.parametrize("rule", ["natural", "bias", "heaviest", "released", "any", "sum"])
def test_ties_refuse(rule):
    half = np.log(np.array([[0.5, 0.5]], dtype=np.float32))
    below_half = math.exp(float(half[0, 0]))
    assert decide(policy(1, rule, [below_half]), half[0]).refuses


def test_between_tied_categories_the_first_of_the_taxonomy_wins():
    logp_NC = np.log(np.array([[0.2, 0.4, 0.4]], dtype=np.float32))
    for rule in RULES:
        assert decide(policy(2, rule, [0.3, 0.3]), logp_NC[0]).choice == "safety"


def test_under_heaviest_one_category_can_hide_another_and_under_any_it_cannot():
    logp_C = np.log(np.array([0.06, 0.48, 0.46], dtype=np.float32))
    assert decide(policy(2, "heaviest", [0.9, 0.1]), logp_C).choice == "respond"
    assert decide(policy(2, "any", [0.9, 0.1]), logp_C).choice == "humanizing"


def test_a_suppressed_category_is_never_emitted_and_a_forced_one_always():
    logp_NC = log_softmax(np.random.default_rng(0).normal(size=(200, 4)) * 3)
    for rule in RULES:
        base = policy(3, rule, [0.2] * 3)
        assert 2 not in decide_many(with_category(base, 1, override="suppress"), logp_NC).choice_N
        assert set(decide_many(with_category(base, 1, override="force"), logp_NC).choice_N) == {2}


def test_nobody_refuses_when_no_category_is_active():
    many = decide_many(policy(2, "heaviest", [0.0, 0.0], active=False), log_softmax([[0, 1, 2]]))
    assert many.choice_N.tolist() == many.heaviest_N.tolist() == [0]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 0.5])
def test_scores_that_are_no_log_probabilities_are_refused_by_row(bad):
    logp_NC = log_softmax([[0, 0], [1, 0]])
    logp_NC[1, 1] = bad
    with pytest.raises(ScoreError, match="row 1"):
        decide_many(policy(1), logp_NC)


def test_scores_of_another_taxonomy_are_refused():
    with pytest.raises(ScoreError, match=r"\(1, 2\) for 3 control tokens"):
        decide_many(policy(2), log_softmax([[0, 0]]))
