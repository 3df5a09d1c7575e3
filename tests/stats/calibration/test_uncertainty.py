import numpy as np
import pytest
from scipy.stats import binom

from demur.base.errors import DataError
from demur.stats.calibration.binned import cells
from demur.stats.calibration.uncertainty import error_interval
from demur.stats.calibration.views import binary_view
from demur.stats.points import Resampling
from tests.stats.calibration.material import calibrated_view, golden_top

FEW = Resampling(seed=1, draws=300)


def overconfident(n, seed):
    """Events happen half as far from 1/2 as the probabilities say: with 2 cells the true l1 error
    is 1/8.
    """
    rng = np.random.default_rng(seed)
    p_N = rng.random(n)
    return binary_view("overconfident", p_N, rng.random(n) < 0.25 + p_N / 2)


def test_the_interval_covers_the_true_error_about_as_often_as_it_says():
    covered = 0
    for seed in range(200):
        v = overconfident(400, seed)
        low, high = error_interval(v, cells(v, "width", 2), "l1", FEW)
        covered += low <= 0.125 <= high
    assert covered >= binom.ppf(0.001, 200, 0.93)


@pytest.mark.parametrize("norm", ["l1", "l2", "max"])
def test_the_interval_is_ordered_not_negative_and_repeatable(norm):
    v = golden_top("pre")
    c = cells(v, "mass", 15)
    low, high = error_interval(v, c, norm, FEW)
    assert 0 <= low < high
    assert (low, high) == error_interval(v, c, norm, FEW)


def test_whole_groups_are_drawn_so_copies_do_not_narrow_the_interval():
    v = overconfident(300, 4)
    copies = binary_view("copies", np.tile(v.p_N, 5), np.tile(v.event_N, 5))
    group_N = np.tile(np.arange(300), 5)
    alone = error_interval(v, cells(v, "width", 2), "l1", FEW)
    grouped = error_interval(copies, cells(copies, "width", 2), "l1", FEW, group_N)
    fooled = error_interval(copies, cells(copies, "width", 2), "l1", FEW)
    assert grouped == pytest.approx(alone, abs=1e-12)
    assert fooled[1] - fooled[0] < 0.7 * (alone[1] - alone[0])


def test_groups_of_another_length_are_refused():
    v = calibrated_view(10, 0)
    with pytest.raises(DataError, match="one group a row"):
        error_interval(v, cells(v, "width", 2), "l1", FEW, np.zeros(9, dtype=np.int64))
