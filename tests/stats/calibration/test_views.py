import numpy as np
import pytest

from demur.base.errors import DataError, ScoreError
from demur.stats.calibration.views import all_classes, binary_view, forecast, refusal, top_label
from tests.stats.calibration.material import log_softmax, simulated

P_NC = np.array([[0.2, 0.5, 0.3], [0.4, 0.4, 0.2], [0.9, 0.05, 0.05]])


def small():
    return forecast(np.log(P_NC), np.array([2, 0, 1]))


def test_the_views_of_a_forecast_pair_the_right_probability_with_the_right_event():
    top, refuse = top_label(small()), refusal(small())
    assert top.p_N.tolist() == pytest.approx([0.4, 0.5, 0.9])
    # the tie 0.4, 0.4 goes to the lower column, which is the label
    assert top.event_N.tolist() == [1, 0, 0]
    assert refuse.p_N.tolist() == pytest.approx([0.1, 0.6, 0.8])
    assert refuse.event_N.tolist() == [1, 0, 1]
    assert [v.event_P[-1] for v in all_classes(small())] == [1, 1, 1]


def test_equal_probabilities_form_one_run():
    assert binary_view("tied", [0.2, 0.1, 0.2, 0.3], [0, 1, 1, 0]).run_ends.tolist() == [1, 3, 4]


@pytest.mark.parametrize(
    "rows",
    [[[0.5, 0.6]], [[np.nan, 0.5]], [[0.5, 0.4]]],
    ids=["above 1", "NaN", "below 1: not closed"],
)
def test_rows_that_do_not_sum_to_1_are_refused_by_number(rows):
    with pytest.raises(ScoreError, match="row 1 has probabilities"):
        forecast(np.log([[0.5, 0.5], *rows]), np.array([0, 1]))


@pytest.mark.parametrize("labels", [[0, 6], [-1, 0], [0], [0.0, 1.0]])
def test_labels_that_are_no_column_are_refused(labels):
    with pytest.raises(DataError):
        forecast(log_softmax(np.zeros((2, 6))), np.array(labels))


def test_no_row_is_refused():
    with pytest.raises(DataError, match="N > 0"):
        forecast(np.zeros((0, 3)), np.zeros(0, dtype=np.int64))
    with pytest.raises(DataError, match="N > 0"):
        binary_view("empty", [], [])


@pytest.mark.parametrize("p", [-0.1, 1.1, np.nan])
def test_a_probability_outside_0_to_1_is_refused(p):
    with pytest.raises(ScoreError):
        binary_view("bad", [0.5, p], [0, 1])


def test_an_event_is_0_or_1():
    with pytest.raises(DataError, match="neither 0 nor 1"):
        binary_view("bad", [0.5], [0.5])


def test_a_probability_of_zero_is_allowed():
    with np.errstate(divide="ignore"):
        assert forecast(np.log([[0.0, 1.0]]), np.array([1])).p_NC.tolist() == [[0.0, 1.0]]


def test_float32_log_probabilities_pass_for_what_they_are():
    logp_NC, label_N = simulated(1000, 0)
    assert refusal(forecast(logp_NC.astype(np.float32), label_N)).rows == 1000
