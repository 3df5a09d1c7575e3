"""netcal beside ours, on inputs that no golden file has fixed: many seeds, tied scores, few and
many cells.
"""

import numpy as np
import pytest
from netcal.binning import HistogramBinning, IsotonicRegression
from netcal.metrics import ECE, MCE, MMCE
from netcal.scaling import BetaCalibration, LogisticCalibration, TemperatureScaling
from scipy.special import expit, logit

from demur.stats.calibration.binned import cells
from demur.stats.calibration.smooth import mmce
from demur.stats.calibration.views import binary_view, forecast, top_label
from demur.stats.calibrators.beta import fit_beta_binary
from demur.stats.calibrators.histogram import BINS, histogram_of
from demur.stats.calibrators.isotonic import isotonic_of
from demur.stats.calibrators.platt import fit_platt
from demur.stats.calibrators.temperature import fit_temperature
from tests.stats.calibration.material import simulated
from tests.stats.calibrators.golden import fit_rows_of

SEEDS = range(5)
AT = np.linspace(0.02, 0.98, 25)

# inside what netcal stands on
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def overconfident(seed, n=2000, *, tied=False):
    """Scores whose log-odds are 1.7 times what is true. Tied ones lie in the middle of thousandths,
    off all edges.
    """
    rng = np.random.default_rng(seed)
    true_N = rng.beta(1.2, 2.5, n)
    event_N = rng.random(n) < true_N
    score_N = expit(1.7 * logit(true_N))
    return ((np.floor(score_N * 100) + 0.5) / 100 if tied else score_N), event_N


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("bins", [5, 15, 100])
@pytest.mark.parametrize("seed", SEEDS)
def test_binned_errors_are_netcals(seed, bins, tied):
    score_N, event_N = overconfident(seed, tied=tied)
    ours = cells(binary_view("oracle", score_N, event_N), "width", bins)
    found = (ours.error(), ours.error("max"))
    expected = tuple(float(kind(bins).measure(score_N, event_N)) for kind in (ECE, MCE))
    assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_kernel_error_of_the_top_label_is_netcals(seed):
    logp_NC, label_N = simulated(500, seed)
    # of one column netcal takes "right" for "happened"
    expected = float(MMCE().measure(np.exp(logp_NC), label_N))
    assert mmce(top_label(forecast(logp_NC, label_N))) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("seed", SEEDS)
def test_platt_scaling_is_netcals_logistic_calibration(seed):
    score_N, event_N = overconfident(seed)
    ours = fit_platt(logit(score_N), event_N)
    theirs = LogisticCalibration(method="mle").fit(score_N, event_N.astype(float))
    assert expit(ours.log_odds(logit(AT))) == pytest.approx(theirs.transform(AT), abs=2e-3)


@pytest.mark.parametrize("seed", SEEDS)
def test_temperature_scaling_is_netcals(seed):
    score_N, event_N = overconfident(seed)
    closed_NC = np.stack([np.log1p(-score_N), np.log(score_N)], axis=1)
    ours = fit_temperature(fit_rows_of(closed_NC, event_N.astype(int))).map.temperature
    theirs = TemperatureScaling(method="mle").fit(score_N, event_N.astype(float))
    assert expit(logit(AT) / ours) == pytest.approx(theirs.transform(AT), abs=2e-3)


@pytest.mark.parametrize("seed", SEEDS)
def test_beta_calibration_is_netcals(seed):
    score_N, event_N = overconfident(seed)
    ours = fit_beta_binary(logit(score_N), event_N, "abm")
    theirs = BetaCalibration(method="mle").fit(score_N, event_N.astype(float))
    assert expit(ours.log_odds(logit(AT))) == pytest.approx(theirs.transform(AT), abs=2e-3)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
def test_isotonic_regression_is_netcals(seed, tied):
    score_N, event_N = overconfident(seed, tied=tied)
    theirs = IsotonicRegression().fit(score_N, event_N.astype(float))
    assert isotonic_of(score_N, event_N, shrink=0.0).at(AT) == pytest.approx(
        theirs.transform(AT), abs=1e-9
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_histogram_binning_is_netcals_where_no_score_lies_on_an_edge(seed):
    score_N, event_N = overconfident(seed, tied=True)
    theirs = HistogramBinning(BINS).fit(score_N, event_N.astype(float))
    ours = histogram_of(score_N, event_N, "width", shrink=0.0)
    at = np.unique(score_N)
    assert ours.at(at) == pytest.approx(theirs.transform(at), abs=1e-9)
