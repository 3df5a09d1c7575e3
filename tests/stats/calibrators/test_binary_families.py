"""Platt, beta, isotonic, histogram: each against the reference, then one per control token."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from demur.base.errors import DataError
from demur.core.calibrator import closed
from demur.stats.calibrators.beta import fit_beta, fit_beta_binary
from demur.stats.calibrators.histogram import fit_histogram, histogram_of
from demur.stats.calibrators.isotonic import fit_isotonic, isotonic_of
from demur.stats.calibrators.one_vs_rest import fit_one_vs_rest
from demur.stats.calibrators.platt import fit_platt
from tests.stats.calibrators.golden import (
    BINARY,
    EVENT_N,
    GOLDEN,
    GRID,
    LABEL_N,
    LOG_ODDS_GRID,
    LOG_ODDS_N,
    MULTICLASS,
    ROWS,
    SCORE_N,
    TEST_NC,
    expit,
    fit_rows_of,
    near,
)

tied_scores = st.lists(st.tuples(st.integers(1, 9), st.booleans()), min_size=2, max_size=40).filter(
    lambda rows: len({event for _, event in rows}) == 2
)


def arrays(rows):
    return np.array([p / 10 for p, _ in rows]), np.array([e for _, e in rows])


def test_platt_scaling_equals_the_reference():
    smooth, plain = fit_platt(LOG_ODDS_N, EVENT_N), fit_platt(LOG_ODDS_N, EVENT_N, smooth=False)
    expected = BINARY["own_platt_smoothed_targets"]
    near([smooth.slope, smooth.offset], [expected["slope"], expected["intercept"]], 1e-5)
    near(expit(smooth.log_odds(LOG_ODDS_GRID)), expected["pred_grid"], 1e-6)
    sigmoid = BINARY["sklearn_sigmoid_on_logit"]
    near([-smooth.slope, -smooth.offset], [sigmoid["a"], sigmoid["b"]], 1e-5)
    on_p, expected = fit_platt(SCORE_N, EVENT_N), BINARY["sklearn_sigmoid_on_probability"]
    near([-on_p.slope, -on_p.offset], [expected["a"], expected["b"]], 1e-5)
    near(expit(on_p.log_odds(GRID)), expected["pred_grid"], 1e-5)
    expected = BINARY["own_platt_mle_plain_targets"]
    near([plain.slope, plain.offset], [expected["slope"], expected["intercept"]], 1e-5)


def test_platt_scaling_per_column_equals_scikit_learn_one_vs_rest():
    logits_NC, test_NC = np.array(GOLDEN["logits_cal"]), np.array(GOLDEN["logits_test_first10"])
    fits = [fit_platt(logits_NC[:, c], c == LABEL_N) for c in range(6)]
    r_NC = np.stack([expit(f.log_odds(test_NC[:, c])) for c, f in enumerate(fits)], axis=1)
    expected = MULTICLASS["sklearn_CalibratedClassifierCV_sigmoid_on_logit"]["P_test_first10"]
    near(r_NC / r_NC.sum(axis=1, keepdims=True), expected, 1e-5)


def test_scores_that_point_the_wrong_way_are_noted_not_flipped():
    rows = fit_rows_of(
        closed(np.stack([LOG_ODDS_N, 0.0 * LOG_ODDS_N], axis=1)), EVENT_N.astype(int)
    )
    fit = fit_one_vs_rest(rows, fit_platt)
    assert fit.map.map.slope < 0
    assert "inverted" in fit.notes[0]


@pytest.mark.parametrize(
    ("variant", "key"),
    [("abm", "own_beta_abm"), ("am", "own_beta_am"), ("ab", "own_beta_ab_midpoint_half")],
)
def test_beta_calibration_equals_the_reference(variant, key):
    found, expected = fit_beta_binary(LOG_ODDS_N, EVENT_N, variant), BINARY[key]
    near(found.a, expected["a"], 1e-4)
    near(found.b, expected.get("b", expected["a"]), 1e-4)
    if "c" in expected:
        near(found.c, expected["c"], 1e-4)
    if "pred_grid" in expected:
        near(expit(found.log_odds(LOG_ODDS_GRID)), expected["pred_grid"], 1e-5)
        near(expit(found.log_odds(LOG_ODDS_GRID)), BINARY["betacal_abm"]["pred_grid"], 1e-3)
        near(expit(found.log_odds(LOG_ODDS_GRID)), BINARY["netcal_beta"]["pred_grid"], 1e-3)
    if variant == "ab":
        near(found.log_odds(np.zeros(1)), [0.0], 1e-12)


def test_beta_for_six_tokens_equals_the_reference():
    fitted = fit_beta(ROWS).map
    near(np.exp(fitted.logq(TEST_NC)), MULTICLASS["netcal_beta"]["P_test_first10"], 1e-3)
    near(
        [w for ab in zip(fitted.a, fitted.b, strict=True) for w in ab],
        MULTICLASS["netcal_beta"]["weights"],
        2e-3,
    )


def test_isotonic_regression_equals_the_reference():
    found, expected = isotonic_of(SCORE_N, EVENT_N, shrink=0.0), BINARY["sklearn_isotonic"]
    near(found.score_J, expected["X_thresholds"], 1e-9)
    near(found.calibrated_J, expected["y_thresholds"], 1e-9)
    near(found.at(GRID), expected["pred_grid"], 1e-9)
    six = fit_one_vs_rest(ROWS, partial(fit_isotonic, shrink=0.0)).map
    for key in ("sklearn_CalibratedClassifierCV_isotonic_on_probability", "netcal_isotonic"):
        near(np.exp(six.logq(TEST_NC)), MULTICLASS[key]["P_test_first10"], 1e-9)


def test_histogram_binning_equals_the_reference():
    # The reference fits on [low, high) and predicts on (low, high]; ours are (low, high]
    # throughout. One float up, the scores that lie on an edge change sides, and the fits must
    # agree.
    found = histogram_of(np.nextafter(SCORE_N, 1.0), EVENT_N, "width", shrink=0.0)
    near(found.value_B, BINARY["netcal_histogram_10"]["bin_values"], 1e-9)
    near(found.at(GRID), BINARY["netcal_histogram_10"]["pred_grid"], 1e-9)
    six = fit_one_vs_rest(ROWS, partial(fit_histogram, edges="width", shrink=0.0)).map
    near(np.exp(six.logq(TEST_NC)), MULTICLASS["netcal_histogram_10"]["P_test_first10"], 1e-9)


@given(tied_scores)
def test_isotonic_maps_ascend_and_shrinkage_keeps_them_off_zero_and_one(rows):
    p_N, event_N = arrays(rows)
    found = isotonic_of(p_N, event_N, shrink=1.0)
    at = found.at(np.linspace(0.0, 1.0, 41))
    assert (np.diff(at) >= 0).all()
    assert at[0] > 0.0
    assert at[-1] < 1.0


@given(tied_scores, st.randoms())
def test_ties_in_any_order_give_the_same_fit_and_every_row_twice_gives_the_same_map(rows, random):
    mixed = random.sample(rows, len(rows))
    assert isotonic_of(*arrays(rows), 0.0) == isotonic_of(*arrays(mixed), 0.0)
    assert histogram_of(*arrays(rows), "mass", 0.0) == histogram_of(*arrays(mixed), "mass", 0.0)
    once, twice = isotonic_of(*arrays(rows), 0.0), isotonic_of(*arrays(rows * 2), 0.0)
    near(twice.at(GRID), once.at(GRID), 1e-12)


@given(tied_scores)
def test_isotonic_regression_of_its_own_output_changes_nothing(rows):
    p_N, event_N = arrays(rows)
    once_N = isotonic_of(p_N, event_N, 0.0).at(p_N)
    near(isotonic_of(once_N, event_N, 0.0).at(once_N), once_N, 1e-12)


@given(tied_scores)
def test_equal_mass_bins_hold_the_share_of_events_among_their_rows(rows):
    p_N, event_N = arrays(rows)
    found = histogram_of(p_N, event_N, "mass", 0.0)
    bin_N = np.searchsorted(found.edge_J, p_N, side="left")
    for b in np.unique(bin_N):
        near(found.value_B[b], event_N[bin_N == b].mean(), 1e-12)


def test_an_empty_bin_has_its_middle():
    found = histogram_of(np.array([0.05, 0.95]), np.array([False, True]), "width", 1.0)
    near(found.value_B[4], 0.45, 1e-12)


@pytest.mark.parametrize("fit", [fit_beta, partial(fit_one_vs_rest, fit=fit_platt)])
def test_a_missing_label_is_named(fit):
    with pytest.raises(DataError, match="'choice 2'"):
        fit(fit_rows_of(ROWS.closed_NC, np.where(LABEL_N == 2, 0, LABEL_N)))
