import numpy as np
import pytest
from hypothesis import given
from scipy.ndimage import gaussian_filter1d

from demur.stats.calibration.smooth import kde_error, mmce, smooth_error, smooth_error_at
from demur.stats.calibration.views import all_classes, view
from tests.stats.calibration.material import (
    GOLDEN,
    STAGES,
    calibrated_view,
    golden_binary,
    golden_forecast,
    golden_top,
    views,
)


@pytest.mark.parametrize("stage", STAGES)
def test_mmce_is_the_golden_one(stage):
    found = mmce(golden_top(stage))
    assert found == pytest.approx(GOLDEN["own"][stage]["MMCE_phi0.4"], abs=1e-10)
    assert found == pytest.approx(GOLDEN["h_calibration"][stage]["MMCE"], abs=1e-7)
    assert found == pytest.approx(GOLDEN["netcal"][stage]["MMCE"], abs=1e-10)


@given(views())
def test_mmce_equals_the_quadratic_form_it_stands_for(v):
    r_N = v.event_N - v.p_N
    k_NN = np.exp(-np.abs(v.p_N[:, None] - v.p_N) / 0.4)
    assert mmce(v) ** 2 * v.rows**2 == pytest.approx(max(r_N @ k_NN @ r_N, 0), abs=1e-9)


@pytest.mark.parametrize("stage", STAGES)
def test_the_smooth_error_is_the_golden_one(stage):
    own, found = GOLDEN["own"][stage], smooth_error(golden_top(stage))
    assert found.error == pytest.approx(own["smECE_exact_kernel"], abs=1e-4)
    assert found.bandwidth == pytest.approx(own["smECE_exact_sigma"], abs=1e-4)


@pytest.mark.parametrize(
    ("v", "golden"),
    [
        (golden_top("pre"), GOLDEN["relplot"]["top_label_pre"]),
        (golden_top("post"), GOLDEN["relplot"]["top_label_post"]),
        (golden_binary(), GOLDEN["relplot"]["binary"]),
    ],
)
def test_the_smooth_error_agrees_with_relplot(v, golden):
    found = smooth_error(v)
    assert found.error == pytest.approx(golden["smECE"], abs=2e-3)
    assert found.bandwidth == pytest.approx(golden["bandwidth"], abs=3e-3)
    assert smooth_error_at(v, 0.05) == pytest.approx(golden["smECE_sigma_0_05"], abs=2e-3)


def on_a_mirrored_grid(v, bandwidth, points=1000):
    """relplot's discretisation: rounding to a grid whose end points are mirrored, so that mass at 0 and 1 is lost."""

    def smoothed(weight_N):
        at_N = v.p_N * (points - 1)
        low_N = np.minimum(at_N.astype(int), points - 2)
        grid = np.bincount(low_N, weight_N * (1 + low_N - at_N), points)
        grid += np.bincount(low_N + 1, weight_N * (at_N - low_N), points)
        return gaussian_filter1d(grid, bandwidth * (points - 1), mode="mirror", truncate=8)

    return np.abs(smoothed(v.p_N - v.event_N)).sum() / smoothed(np.ones(v.rows)).sum()


def test_relplots_class_wise_numbers_differ_by_its_grid_and_by_nothing_else():
    """Where scores pile up at 0 its grid is off by up to 6e-3; ours is the integral. On its grid we get its numbers."""
    for v, golden in zip(all_classes(golden_forecast("pre")), GOLDEN["relplot"]["class_wise_pre"], strict=True):
        assert on_a_mirrored_grid(v, 0.05) == pytest.approx(golden["smECE_sigma_0_05"], abs=2e-3)
        assert on_a_mirrored_grid(v, golden["bandwidth"]) == pytest.approx(golden["smECE"], abs=2e-3)
        assert smooth_error(v).error == pytest.approx(golden["smECE"], abs=6e-3)


def by_quadrature(v, sd, points=4000):
    t = (np.arange(points) + 0.5) / points
    images = [v.p_N, -v.p_N, 2 - v.p_N, 2 + v.p_N, -2 + v.p_N]
    k = sum(np.exp(-0.5 * ((t[:, None] - p) / sd) ** 2) for p in images)
    return np.abs(k @ (v.p_N - v.event_N)).sum() / k.sum()


@pytest.mark.parametrize("sd", [0.02, 0.1, 0.3])
def test_the_cosine_transform_is_the_reflected_gaussian(sd):
    for v in all_classes(golden_forecast("pre")):
        assert smooth_error_at(v, sd) == pytest.approx(by_quadrature(v, sd), abs=2e-5)


@given(views())
def test_the_smooth_error_lies_between_the_mean_gap_and_1_and_equals_its_bandwidth(v):
    found = smooth_error(v)
    assert abs(v.p_N.mean() - v.event_N.mean()) - 1e-6 <= found.error <= 1
    if found.bandwidth > 1e-3:
        assert found.error == pytest.approx(found.bandwidth, abs=1e-6)


def test_more_rows_of_a_calibrated_forecast_have_a_smaller_smooth_error():
    errors = [smooth_error(calibrated_view(n, 3)).error for n in (100, 1000, 10_000, 100_000)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.01


def test_certain_and_right_has_no_error():
    v = view("certain", [0, 1, 1, 0], [0, 1, 1, 0])
    assert mmce(v) == smooth_error(v).error == 0
    assert not kde_error(v).defined


@pytest.mark.parametrize("stage", STAGES)
def test_the_kernel_density_error_is_the_golden_one(stage):
    assert kde_error(golden_top(stage)).value == pytest.approx(GOLDEN["h_calibration"][stage]["KDE_ECE"], abs=1e-3)


def test_without_any_event_there_is_no_kernel_density_error():
    assert not kde_error(view("never", [0.1, 0.2], [0, 0])).defined


def test_mirroring_probabilities_and_events_leaves_mmce_unchanged():
    v = calibrated_view(500, 9)
    assert mmce(view("mirrored", 1 - v.p_N, 1 - v.event_N)) == pytest.approx(mmce(v), abs=1e-12)
