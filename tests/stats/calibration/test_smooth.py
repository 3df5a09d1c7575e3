import numpy as np
import pytest
from hypothesis import given
from scipy.ndimage import gaussian_filter1d

from demur.stats.calibration.smooth import kde_error, mmce
from demur.stats.calibration.views import binary_view
from tests.stats.calibration.material import (
    GOLDEN,
    STAGES,
    calibrated_view,
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


def on_a_mirrored_grid(v, bandwidth, points=1000):
    """relplot's discretisation: rounding to a grid whose end points are mirrored, so that mass at 0
    and 1 is lost.
    """

    def smoothed(weight_N):
        at_N = v.p_N * (points - 1)
        low_N = np.minimum(at_N.astype(int), points - 2)
        grid = np.bincount(low_N, weight_N * (1 + low_N - at_N), points)
        grid += np.bincount(low_N + 1, weight_N * (at_N - low_N), points)
        return gaussian_filter1d(grid, bandwidth * (points - 1), mode="mirror", truncate=8)

    return np.abs(smoothed(v.p_N - v.event_N)).sum() / smoothed(np.ones(v.rows)).sum()


def by_quadrature(v, sd, points=4000):
    t = (np.arange(points) + 0.5) / points
    images = [v.p_N, -v.p_N, 2 - v.p_N, 2 + v.p_N, -2 + v.p_N]
    k = sum(np.exp(-0.5 * ((t[:, None] - p) / sd) ** 2) for p in images)
    return np.abs(k @ (v.p_N - v.event_N)).sum() / k.sum()


@pytest.mark.parametrize("stage", STAGES)
def test_the_kernel_density_error_is_the_golden_one(stage):
    assert kde_error(golden_top(stage)).value == pytest.approx(
        GOLDEN["h_calibration"][stage]["KDE_ECE"], abs=1e-3
    )


def test_without_any_event_there_is_no_kernel_density_error():
    assert not kde_error(binary_view("never", [0.1, 0.2], [0, 0])).defined


def test_mirroring_probabilities_and_events_leaves_mmce_unchanged():
    v = calibrated_view(500, 9)
    assert mmce(binary_view("mirrored", 1 - v.p_N, 1 - v.event_N)) == pytest.approx(
        mmce(v), abs=1e-12
    )


def test_certain_and_right_has_no_error():
    v = binary_view("certain", [0, 1, 1, 0], [0, 1, 1, 0])
    assert mmce(v) == 0
    assert not kde_error(v).defined
