import numpy as np
import pytest

from demur.base.errors import DataError
from demur.core.calibrator import closed
from demur.stats.calibrators.temperature import BOUND, fit_temperature
from tests.stats.calibrators.golden import (
    BINARY,
    MULTICLASS,
    PAIR_ROWS,
    ROWS,
    TEST_NC,
    fit_rows_of,
    near,
)


def test_it_finds_the_reference_temperatures():
    near(fit_temperature(PAIR_ROWS).map.temperature, BINARY["own_temperature_mle"]["T"], 1e-6)
    fitted = fit_temperature(ROWS).map
    near(fitted.temperature, MULTICLASS["own_temperature_mle"]["T"], 1e-6)
    near(
        np.exp(fitted.logq(TEST_NC)),
        MULTICLASS["sklearn_temperature_logits"]["P_test_first10"],
        1e-6,
    )


def test_calibrated_scores_keep_their_temperature_and_calibrating_twice_changes_nothing():
    rng = np.random.default_rng(1)
    logits_NC = rng.normal(size=(20_000, 4)) * 2.0
    p_NC = np.exp(closed(logits_NC))
    label_N = (rng.random(len(p_NC))[:, None] > p_NC.cumsum(axis=1)).sum(axis=1).clip(0, 3)
    once = fit_temperature(fit_rows_of(closed(logits_NC), label_N)).map
    assert abs(once.temperature - 1.0) < 0.05
    again = fit_temperature(fit_rows_of(once.logq(closed(logits_NC)), label_N)).map
    near(again.temperature, 1.0, 1e-6)


def test_a_temperature_without_an_optimum_is_at_its_bound_and_says_so():
    label_N = np.arange(40) % 3
    right_NC = closed(np.eye(3)[label_N] * 5.0)
    sharp, flat = (
        fit_temperature(fit_rows_of(right_NC, label_N)),
        fit_temperature(fit_rows_of(-right_NC, label_N)),
    )
    near(np.log(sharp.map.temperature), -BOUND, 1e-9)
    near(np.log(flat.map.temperature), BOUND, 1e-9)
    assert "at its bound" in sharp.notes[0]
    assert "do not tell" in flat.notes[0]


@pytest.mark.parametrize(
    ("count", "says"), [(19, "19 rows are too few"), (30, "all 30 rows have label 'choice 1'")]
)
def test_too_few_rows_and_one_label_alone_are_refused(count, says):
    with pytest.raises(DataError, match=says):
        fit_rows_of(closed(np.zeros((count, 3))), np.ones(count, dtype=int))
