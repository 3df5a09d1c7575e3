import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest

from demur.stats.calibration.binless import kolmogorov_smirnov, kuiper, line, spiegelhalter
from demur.stats.calibration.views import refusal, view
from tests.stats.calibration.material import GOLDEN, STAGES, calibrated_view, golden_forecast, golden_top, views


@pytest.mark.parametrize("stage", STAGES)
def test_kolmogorov_smirnov_and_spiegelhalter_are_the_golden_ones(stage):
    golden, ks = GOLDEN["mapie"][f"top_label_{stage}"], kolmogorov_smirnov(golden_top(stage))
    assert ks.error == pytest.approx(GOLDEN["own"][stage]["KS_error"], abs=1e-10)
    assert ks.error == pytest.approx(GOLDEN["h_calibration"][stage]["KSerror"], abs=1e-7)
    assert ks.standardised.value == pytest.approx(golden["ks_stat"], abs=1e-6)
    assert ks.p_value.value == pytest.approx(golden["ks_p"], abs=1e-4)
    z = spiegelhalter(golden_top(stage))
    assert z.standardised.value == pytest.approx(golden["spiegelhalter_z"], abs=1e-6)
    assert z.p_value.value == pytest.approx(2 * golden["spiegelhalter_p"], abs=1e-4)  # MAPIE's is one-sided


@pytest.mark.parametrize("stage", STAGES)
def test_kuiper_is_the_golden_one_but_for_the_start_of_the_path(stage):
    golden, top = GOLDEN["mapie"][f"top_label_{stage}"], golden_top(stage)
    # MAPIE takes the range over D_1..D_n; ours includes D_0 = 0, where a Brownian path starts
    walk = (top.event_P - top.p_P)[1:] / np.sqrt((top.p_N * (1 - top.p_N)).sum())
    assert walk.max() - walk.min() == pytest.approx(golden["kuiper_stat"], abs=1e-6)
    with_start = max(walk.max(), 0) - min(walk.min(), 0)
    assert kuiper(top).standardised.value == pytest.approx(with_start, abs=1e-10)
    if with_start == walk.max() - walk.min():
        assert kuiper(top).p_value.value == pytest.approx(golden["kuiper_p"], abs=1e-4)


@pytest.mark.parametrize("test", [kolmogorov_smirnov, kuiper, spiegelhalter])
def test_p_values_are_uniform_for_calibrated_forecasts(test):
    p_values = [test(calibrated_view(1000, seed)).p_value.value for seed in range(300)]
    assert kstest(p_values, "uniform").statistic < 0.12  # the 0.1 % point at 300 draws is 0.112; asymptotic laws


@given(views(), st.randoms())
def test_the_order_of_rows_never_matters_even_with_ties(v, random):
    order = list(range(v.rows))
    random.shuffle(order)
    shuffled = view("shuffled", v.p_N[order], v.event_N[order])
    assert kolmogorov_smirnov(shuffled).error == pytest.approx(kolmogorov_smirnov(v).error, abs=1e-12)
    assert kuiper(shuffled).error == pytest.approx(kuiper(v).error, abs=1e-12)


@given(views())
def test_mirroring_or_duplicating_leaves_the_errors_unchanged(v):
    mirrored, twice = view("m", 1 - v.p_N, 1 - v.event_N), view("t", np.tile(v.p_N, 2), np.tile(v.event_N, 2))
    assert kuiper(mirrored).error == pytest.approx(kuiper(v).error, abs=1e-12)
    for test in (kolmogorov_smirnov, kuiper):
        assert test(twice).error == pytest.approx(test(v).error, abs=1e-12)


@given(views())
def test_kuiper_is_at_least_kolmogorov_smirnov(v):
    assert kuiper(v).error >= kolmogorov_smirnov(v).error - 1e-12


def test_certain_forecasts_leave_nothing_to_test():
    for test in (kolmogorov_smirnov, kuiper, spiegelhalter):
        found = test(view("certain", [0, 1, 1], [0, 1, 1]))
        assert found.error == 0
        assert not found.p_value.defined


def test_the_line_through_calibrated_log_odds_has_slope_1_and_offset_0():
    found = line(calibrated_view(20_000, 1))
    assert abs(found.slope.value - 1) < 4 * found.slope_sd.value < 0.2
    assert abs(found.offset.value) < 4 * found.offset_sd.value < 0.2


def test_the_line_undoes_a_known_distortion():
    v = calibrated_view(20_000, 2)
    odds = (v.p_N / (1 - v.p_N)) ** 2 * np.e
    found = line(view("distorted", odds / (1 + odds), v.event_N))
    assert found.slope.value == pytest.approx(0.5, abs=0.02)
    assert found.offset.value == pytest.approx(-0.5, abs=0.05)


@pytest.mark.parametrize("stage", STAGES)
def test_a_line_is_found_for_the_golden_forecasts(stage):
    for v in (golden_top(stage), refusal(golden_forecast(stage))):
        found = line(v)
        log_odds = np.log(v.p_N / (1 - v.p_N))
        residual = v.event_N - 1 / (1 + np.exp(-(found.slope.value * log_odds + found.offset.value)))
        assert abs(residual.sum()) < 1e-8
        assert abs((residual * log_odds).sum()) < 1e-7


@pytest.mark.parametrize(
    ("p", "events", "why"),
    [
        ([0.2, 0.8], [0, 1], "separate"),
        ([0.2, 0.8], [1, 1], "one kind"),
        ([0.5, 0.5], [0, 1], "equal"),
        ([0.0, 0.5], [0, 1], "infinite"),
    ],
)
def test_a_line_that_does_not_exist_is_undefined_with_the_reason(p, events, why):
    found = line(view("odd", p, events))
    assert not found.slope.defined
    assert why in found.slope.why
