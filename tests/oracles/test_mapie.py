"""MAPIE beside ours: its risk controller, its calibration tests and its Venn-Abers, on many
simulated sets.
"""

import numpy as np
import pytest
from mapie.calibration import VennAbers
from mapie.metrics.calibration import (
    kolmogorov_smirnov_p_value,
    kolmogorov_smirnov_statistic,
)
from mapie.risk_control import BinaryClassificationController, recall

from demur.stats.calibration.binless import kolmogorov_smirnov
from demur.stats.calibration.views import binary_view
from demur.stats.calibrators.venn_abers import venn_abers_of
from demur.stats.thresholds.closed_form import certify_false_refusal
from demur.stats.thresholds.results import Certified

DELTA = 0.1

# inside MAPIE
pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")


def scored(seed, n, *, tied=False):
    """Scores and whether the request ought to be refused; two fifths of them."""
    rng = np.random.default_rng(seed)
    refuse_N = rng.random(n) < 0.4
    score_N = np.where(refuse_N, rng.beta(3, 2, n), rng.beta(2, 4, n))
    return (np.ceil(score_N * 50) / 50 if tied else score_N), refuse_N


def mapies_grid(score_N, refuse_N, level):
    """The thresholds of its grid of 100 that MAPIE certifies by fixed-sequence testing, strictest
    first.
    """
    controller = BinaryClassificationController(
        predict_function=lambda x: np.stack([1 - x[:, 0], x[:, 0]], axis=1),
        risk="fpr",
        target_level=level,
        confidence_level=1 - DELTA,
        best_predict_param_choice=recall,
        fwer_method="fixed_sequence",
        list_predict_params=np.linspace(0.99, 0, 100),
    )
    controller.calibrate(score_N[:, None], refuse_N.astype(int))
    return controller.valid_predict_params


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("n", [100, 400, 3000])
@pytest.mark.parametrize("seed", range(5))
def test_the_closed_form_refuses_at_least_what_mapie_certifies_and_at_most_a_grid_step_more(
    seed, n, tied
):
    score_N, refuse_N = scored(seed, n, tied=tied)
    valid = mapies_grid(score_N, refuse_N, 0.1)
    ours = certify_false_refusal(np.log(score_N[~refuse_N]).astype(np.float32), 0.1, DELTA)
    assert isinstance(ours, Certified)
    lowest = min(valid)
    assert ours.thresholds[0] <= lowest + 1e-6
    # MAPIE may miss one error of the exact test by rounding (n x rate in floats), and its grid is
    # one of hundredths.
    comply_N = np.sort(score_N[~refuse_N])
    more = ((comply_N >= ours.thresholds[0]) & (comply_N < lowest)).sum()
    within_a_step = ((comply_N >= lowest - 0.01) & (comply_N < lowest)).sum()
    assert more <= within_a_step + 1


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_both_ends_of_venn_abers_are_mapies(seed, tied):
    score_N, event_N = scored(seed, 300, tied=tied)
    at = np.random.default_rng(seed).random(40)
    theirs = VennAbers()
    pairs = np.stack([1 - score_N, score_N], axis=1)
    theirs.fit(pairs, event_N.astype(int))
    p_N2, ends = theirs.predict_proba(np.stack([1 - at, at], axis=1))
    low, high = venn_abers_of(score_N, event_N).interval(at)
    assert np.stack([low, high], axis=1) == pytest.approx(ends, abs=1e-6)
    assert venn_abers_of(score_N, event_N).at(at) == pytest.approx(p_N2[:, 1], abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_kolmogorov_smirnov_is_mapies(seed):
    rng = np.random.default_rng(seed)
    p_N = rng.random(800)
    event_N = rng.random(800) < p_N**1.1
    ks = kolmogorov_smirnov(binary_view("oracle", p_N, event_N))
    assert ks.standardised.value == pytest.approx(
        kolmogorov_smirnov_statistic(event_N, p_N), abs=1e-6
    )
    assert ks.p_value.value == pytest.approx(kolmogorov_smirnov_p_value(event_N, p_N), abs=1e-4)
