import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from demur.base.errors import GoalError, ScoreError
from demur.core.decision import decide_many
from demur.core.goal import parse_goal
from demur.stats.thresholds.costs import cheapest, cost_policy, cost_thresholds, shift_prior
from tests.builders import logp, policy, taxonomy

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "promises.json").read_text())


@pytest.mark.parametrize("expected", GOLDEN["bayes_thresholds"])
def test_cost_thresholds_equal_the_golden_ones(expected):
    goal = parse_goal(f"cost: false={expected['cost_false_refusal']} missed={expected['cost_missed_refusal']}")
    assert cost_thresholds(goal, taxonomy(2))["safety"] == pytest.approx(expected["threshold"], rel=1e-12)


@given(logp_NC=logp(2), false=st.sampled_from((0.5, 1, 3)), wrong=st.sampled_from((0.1, 2.5)))
def test_the_cheapest_column_costs_no_more_than_any_other(logp_NC, false, wrong):
    goal = parse_goal(f"cost: false={false} missed=2 missed[safety]=7 wrong={wrong}")
    q_NC, missed = np.exp(logp_NC.astype(float)), {1: 7, 2: 2}
    choice_N = cheapest(goal, taxonomy(2), logp_NC)

    def cost(n, column):
        q = q_NC[n]
        if column == 0:
            return sum(missed[c] * q[c] for c in (1, 2))
        return false * q[0] + wrong * q[3 - column]

    for n, column in product(range(len(q_NC)), range(3)):
        assert cost(n, choice_N[n]) <= cost(n, column) + 1e-9


def test_with_one_category_the_rule_and_the_threshold_agree():
    goal = parse_goal("cost: false=1 missed=4")
    p_N = np.linspace(0.01, 0.99, 98)
    logp_NC = np.log(np.stack([1 - p_N, p_N], axis=1)).astype(np.float32)
    by_threshold = decide_many(cost_policy(goal, policy(1)), logp_NC).choice_N
    assert (cheapest(goal, taxonomy(1), logp_NC) == by_threshold).all()


@pytest.mark.parametrize("expected", GOLDEN["prior_shift"])
def test_shifted_probabilities_equal_the_golden_ones(expected):
    old, new = expected["prior_calibration"], expected["prior_deploy"]
    logq_NC = np.log([[1 - expected["q"], expected["q"]]]).astype(np.float32)
    shifted = shift_prior(logq_NC, np.array([1 - old, old]), np.array([1 - new, new]))
    assert np.exp(shifted[0, 1]) == pytest.approx(expected["q_shifted"], rel=1e-6)


def test_inputs_that_do_not_fit_are_refused():
    logq_NC = np.log([[0.5, 0.5]]).astype(np.float32)
    with pytest.raises(GoalError, match="gives no costs"):
        cost_thresholds(parse_goal("f1 max"), taxonomy(1))
    with pytest.raises(GoalError, match="unknown category 'nope'"):
        cost_thresholds(parse_goal("cost: false=1 missed[nope]=2"), taxonomy(1))
    with pytest.raises(ScoreError, match="for 3 control tokens"):
        cheapest(parse_goal("cost: false=1 missed=2"), taxonomy(2), logq_NC)
    with pytest.raises(GoalError, match=r"sum to 1\.2"):
        shift_prior(logq_NC, np.array([0.5, 0.7]), np.array([0.5, 0.5]))
    with pytest.raises(GoalError, match="hold a 0"):
        shift_prior(logq_NC, np.array([1.0, 0.0]), np.array([0.5, 0.5]))
