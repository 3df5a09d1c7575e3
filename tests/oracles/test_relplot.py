"""relplot's smooth calibration error beside ours, on many simulated forecasts."""

import numpy as np
import pytest
import relplot

from demur.stats.calibration.smooth import smooth_error, smooth_error_at
from demur.stats.calibration.views import view

GRID = 2e-3  # relplot rounds scores to a grid of 1,000 points; ours integrates


@pytest.mark.parametrize("power", [0.6, 1.0, 1.5, 2.5])
@pytest.mark.parametrize("n", [300, 3000])
def test_the_smooth_error_and_its_bandwidth_are_relplots(n, power):
    rng = np.random.default_rng(n)
    score_N = rng.uniform(0.05, 0.95, n)  # at 0 and 1 relplot's mirrored grid loses mass: tests/stats/calibration
    event_N = (rng.random(n) < score_N**power).astype(float)
    ours = smooth_error(view("oracle", score_N, event_N))
    error, width = relplot.smECE(score_N, event_N, return_width=True)
    assert (ours.error, ours.bandwidth) == pytest.approx((error, width), abs=GRID)


@pytest.mark.parametrize("sigma", [0.02, 0.1, 0.3])
def test_at_a_given_bandwidth_the_smooth_error_is_relplots(sigma):
    rng = np.random.default_rng(7)
    score_N = rng.uniform(0.05, 0.95, 1000)
    event_N = (rng.random(1000) < score_N**2).astype(float)
    expected = relplot.smECE_sigma(score_N, event_N, sigma)
    assert smooth_error_at(view("oracle", score_N, event_N), sigma) == pytest.approx(expected, abs=GRID)
