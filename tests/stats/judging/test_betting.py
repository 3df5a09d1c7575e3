import numpy as np
import pytest

from demur.stats.judging.betting import upper_mean


def test_betting_bounds_shrink_with_rows_and_follow_the_scale():
    value_M = np.random.default_rng(3).random(1000)
    assert (
        0.5 < upper_mean(value_M, 0.0, 1.0, 0.05) < upper_mean(value_M[:100], 0.0, 1.0, 0.05) < 1.0
    )
    scaled = upper_mean(4 * value_M - 1, -1.0, 3.0, 0.05)
    assert scaled == pytest.approx(4 * upper_mean(value_M, 0.0, 1.0, 0.05) - 1, abs=1e-5)
    assert upper_mean(np.empty(0), 0.0, 1.0, 0.05) == 1.0
    assert upper_mean(np.ones(50), 0.0, 1.0, 0.05) == 1.0
