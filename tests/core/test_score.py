import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from demur.base.errors import ScoreError
from demur.core.score import ScoreTable, from_logits
from tests.builders import log_softmax, table


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1.0])
def test_a_row_that_holds_no_log_probabilities_is_named(bad):
    logp_NC = log_softmax([[0, 0, 0], [0, 0, 0]])
    logp_NC[1, 2] = bad
    with pytest.raises(ScoreError, match="'row-1'"):
        table(logp_NC)


def test_a_row_with_more_than_all_the_mass_is_refused():
    with pytest.raises(ScoreError, match="not log-probabilities"):
        table(np.log(np.array([[0.9, 0.9]], dtype=np.float32)))


def test_scores_in_another_precision_are_refused():
    with pytest.raises(ScoreError, match="float64, expected float32"):
        table(np.zeros((1, 2)) - 1)


def test_an_id_scored_twice_is_refused():
    with pytest.raises(ScoreError, match="'a' is scored more than once"):
        ScoreTable(ids=("a", "a"), logp_NC=log_softmax([[0, 0], [0, 0]]))


@pytest.mark.parametrize("shape", [(2, 2), (1, 1)])
def test_scores_of_the_wrong_shape_are_refused(shape):
    with pytest.raises(ScoreError, match="for 1 ids"):
        ScoreTable(ids=("a",), logp_NC=np.full(shape, -1, dtype=np.float32))


def test_select_keeps_the_asked_order_and_names_what_is_missing():
    scores = table(log_softmax([[0, 1], [0, 2], [0, 3]]))
    assert (scores.select(("row-2", "row-0")).logp_NC == scores.logp_NC[[2, 0]]).all()
    with pytest.raises(ScoreError, match="1 prompts have no score, first 'other'"):
        scores.select(("row-1", "other"))


@given(st.lists(st.floats(-30, 30, width=32), min_size=3, max_size=8))
def test_logits_become_log_probabilities_and_the_rest_is_leftover(logits):
    logits_NV = np.array([logits], dtype=np.float32)
    total_N = np.logaddexp.reduce(logits_NV.astype(np.float64), axis=1).astype(np.float32)
    scores = table(from_logits(logits_NV[:, :2], total_N))
    rest = np.exp(logits_NV[:, 2:].astype(np.float64) - total_N[:, None]).sum()
    assert scores.leftover_N[0] == pytest.approx(rest, abs=1e-4)
