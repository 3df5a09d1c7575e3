import numpy as np
import pytest

from demur.base.errors import DataError
from demur.stats.calibration import canonical
from demur.stats.calibration.canonical import dirichlet_error, skce
from demur.stats.calibration.views import forecast
from tests.stats.calibration.material import GOLDEN, STAGES, golden_forecast, simulated


@pytest.mark.parametrize("stage", STAGES)
def test_kernel_errors_are_the_golden_ones(stage):
    own, repository, found = GOLDEN["own"][stage], GOLDEN["h_calibration"][stage], skce(golden_forecast(stage))
    assert found.unbiased == pytest.approx(own["SKCE_unbiased"], abs=1e-10)
    assert found.biased == pytest.approx(own["SKCE_biased"], abs=1e-10)
    assert found.unbiased == pytest.approx(repository["SKCE"], abs=1e-7)
    assert dirichlet_error(golden_forecast(stage)) == pytest.approx(own["DKDE_CE_h1"], abs=1e-10)
    assert dirichlet_error(golden_forecast(stage)) == pytest.approx(repository["DKDE_CE"], abs=1e-7)


def test_blocks_change_nothing(monkeypatch):
    whole = skce(golden_forecast("pre")), dirichlet_error(golden_forecast("pre"))
    monkeypatch.setattr(canonical, "BLOCK", 7)
    assert skce(golden_forecast("pre")).unbiased == pytest.approx(whole[0].unbiased, abs=1e-12)
    assert dirichlet_error(golden_forecast("pre")) == pytest.approx(whole[1], abs=1e-12)


def test_the_unbiased_estimate_is_0_on_average_for_calibrated_forecasts():
    values = [skce(forecast(*simulated(60, seed, columns=3))).unbiased for seed in range(500)]
    assert abs(np.mean(values)) <= 3 * np.std(values) / 500**0.5


def test_many_rows_are_subsampled_and_always_alike(monkeypatch):
    monkeypatch.setattr(canonical, "MOST_ROWS", 100)
    f = forecast(*simulated(300, 0))
    assert skce(f).rows == 100
    assert skce(f) == skce(f)


def test_certain_and_right_has_no_error_and_one_row_is_refused():
    with np.errstate(divide="ignore"):
        certain = forecast(np.log(np.eye(3)), np.arange(3))
    assert skce(certain).biased == 0
    one = forecast(np.log([[0.5, 0.5]]), np.array([0]))
    for error in (skce, dirichlet_error):
        with pytest.raises(DataError, match="two rows"):
            error(one)
