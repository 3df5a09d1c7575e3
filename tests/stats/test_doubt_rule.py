from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from demur.base.errors import ScoreError
from demur.core.policy import MOST_LEFTOVER, DoubtRule
from demur.core.predictor import predictor_fingerprint, predictor_scores
from demur.core.taxonomy import single
from demur.stats.doubt import LEAST, measured_rule, require_trained
from tests.builders import MODEL, log_softmax, table

OURS = replace(MODEL, token_ids=(0, 1, 2))


def leaving(left_N):
    """Scores with this much probability outside the control tokens."""
    kept_N = np.log(1.0 - np.asarray(left_N, dtype=np.float64))
    return table((log_softmax(np.zeros((len(left_N), 3))) + kept_N[:, None]).astype(np.float32))


def test_the_bound_is_twice_what_all_but_one_row_in_a_hundred_leave():
    left_N = np.full(1000, 0.001)
    left_N[:9] = 0.03
    # never below
    assert measured_rule(leaving(left_N), OURS, "refuse").most_leftover == pytest.approx(0.01)
    left_N[:20] = 0.03
    assert measured_rule(leaving(left_N), OURS, "error") == DoubtRule(
        most_leftover=0.06, then="error"
    )
    left_N[:20] = 0.4
    # never above
    assert measured_rule(leaving(left_N), OURS, "refuse").most_leftover == MOST_LEFTOVER


@given(left_N=st.lists(st.floats(0.0, 0.99), min_size=1, max_size=40))
def test_at_most_one_ordinary_row_in_a_hundred_is_in_doubt_below_the_cap(left_N):
    rule = measured_rule(leaving(left_N), OURS, "refuse")
    assert LEAST <= rule.most_leftover <= MOST_LEFTOVER
    if rule.most_leftover < MOST_LEFTOVER:
        assert (np.array(left_N) > rule.most_leftover + 1e-4).mean() <= 0.01


def test_a_predictors_scores_are_never_in_doubt():
    prompts = predictor_fingerprint("a" * 64, single().tokens, "prompts")
    rule = measured_rule(table(predictor_scores(np.linspace(0, 1, 50))), prompts, "refuse")
    assert rule == DoubtRule()


@pytest.mark.parametrize("left", [0.94, 0.7, 0.51])
def test_a_model_that_has_not_learnt_its_control_tokens_is_refused(left):
    with pytest.raises(ScoreError, match="has not learnt"):
        require_trained(leaving(np.full(100, left)))


def test_a_trained_model_with_a_few_odd_rows_is_not():
    left_N = np.full(100, 0.05)  # as after one epoch on a pretrained model
    left_N[:40] = 0.9
    require_trained(leaving(left_N))
