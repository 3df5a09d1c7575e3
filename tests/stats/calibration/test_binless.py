import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest

from demur.stats.calibration.binless import kolmogorov_smirnov
from demur.stats.calibration.views import binary_view
from tests.stats.calibration.material import GOLDEN, STAGES, calibrated_view, golden_top, views


@pytest.mark.parametrize("stage", STAGES)
def test_kolmogorov_smirnov_is_the_golden_one(stage):
    golden, ks = GOLDEN["mapie"][f"top_label_{stage}"], kolmogorov_smirnov(golden_top(stage))
    assert ks.error == pytest.approx(GOLDEN["own"][stage]["KS_error"], abs=1e-10)
    assert ks.error == pytest.approx(GOLDEN["h_calibration"][stage]["KSerror"], abs=1e-7)
    assert ks.standardised.value == pytest.approx(golden["ks_stat"], abs=1e-6)
    assert ks.p_value.value == pytest.approx(golden["ks_p"], abs=1e-4)


def test_p_values_are_uniform_for_calibrated_forecasts():
    p_values = [
        kolmogorov_smirnov(calibrated_view(1000, seed)).p_value.value for seed in range(300)
    ]
    # the 0.1 % point at 300 draws is 0.112; asymptotic laws
    assert kstest(p_values, "uniform").statistic < 0.12


@given(views(), st.randoms())
def test_the_order_of_rows_never_matters_even_with_ties(v, random):
    order = list(range(v.rows))
    random.shuffle(order)
    shuffled = binary_view("shuffled", v.p_N[order], v.event_N[order])
    assert kolmogorov_smirnov(shuffled).error == pytest.approx(
        kolmogorov_smirnov(v).error, abs=1e-12
    )


@given(views())
def test_duplicating_the_rows_leaves_the_error_unchanged(v):
    twice = binary_view("t", np.tile(v.p_N, 2), np.tile(v.event_N, 2))
    assert kolmogorov_smirnov(twice).error == pytest.approx(kolmogorov_smirnov(v).error, abs=1e-12)


def test_certain_forecasts_leave_nothing_to_test():
    found = kolmogorov_smirnov(binary_view("certain", [0, 1, 1], [0, 1, 1]))
    assert found.error == 0
    assert not found.p_value.defined
