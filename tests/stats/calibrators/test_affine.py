import numpy as np
import pytest

from demur.base.errors import DataError
from demur.core.calibrator import closed
from demur.stats.calibrators.affine import fit_dirichlet, fit_vector
from tests.stats.calibrators.golden import (
    GOLDEN,
    LABEL_N,
    MULTICLASS,
    ROWS,
    TEST_NC,
    fit_rows_of,
    near,
)


def log_loss(map_, rows):
    return -map_.logq(rows.closed_NC)[np.arange(len(rows.label_N)), rows.label_N].mean()


def test_vector_scaling_equals_the_reference():
    expected = MULTICLASS["own_vector_scaling_on_log_softmax"]
    found = fit_vector(ROWS).map
    near(found.weights, expected["w"], 1e-4)
    near(log_loss(found, ROWS), expected["nll_cal"], 1e-6)
    near(found.offsets, expected["b_centred"], 1e-4)
    near(np.exp(found.logq(TEST_NC)), expected["P_test_first10"], 1e-5)
    near(np.exp(found.logq(TEST_NC)), MULTICLASS["netcal_logistic_vector"]["P_test_first10"], 1e-3)


@pytest.mark.parametrize("strength", [0.1, 0.01])
@pytest.mark.parametrize("feature", ["dirichlet_odir_on_log_softmax", "matrix_odir_on_raw_logits"])
def test_matrix_and_dirichlet_scaling_equal_the_reference(feature, strength):
    raw = feature.endswith("raw_logits")
    rows = fit_rows_of(np.array(GOLDEN["logits_cal"]), LABEL_N) if raw else ROWS
    test_NC = np.array(GOLDEN["logits_test_first10"]) if raw else TEST_NC
    expected = MULTICLASS[f"own_{feature}_lam{strength}_mu{strength}"]
    found = fit_dirichlet(rows, strength).map
    near(found.weights, expected["W"], 1e-4)
    near(found.offsets, expected["b"], 1e-4)
    weights = np.array(found.weights)
    prior = strength * (
        (weights**2).sum() - (np.diag(weights) ** 2).sum()
    ) / 30 + strength * np.mean(np.square(found.offsets))
    near(log_loss(found, rows), expected["nll_cal"], 1e-6)
    near(log_loss(found, rows) + prior, expected["objective"], 1e-6)
    near(np.exp(found.logq(test_NC)), expected["P_test_first10"], 1e-5)


def test_relabelling_the_columns_relabels_the_dirichlet_map():
    turn = np.array([2, 0, 1, 5, 4, 3])
    turned = fit_rows_of(ROWS.closed_NC[:, turn], np.argsort(turn)[LABEL_N])
    found, expected = fit_dirichlet(turned, 0.1).map, fit_dirichlet(ROWS, 0.1).map
    near(found.logq(TEST_NC[:, turn]), expected.logq(TEST_NC)[:, turn], 1e-4)


def test_cross_validation_shrinks_harder_where_rows_are_few():
    rng = np.random.default_rng(3)
    logits_NC = rng.normal(size=(3_000, 3)) * 2.0
    truth_NC = np.exp(
        closed(logits_NC @ np.array([[1.0, 0.8, -0.5], [-0.6, 1.2, 0.0], [0.0, 0.5, 0.7]]).T)
    )
    label_N = (rng.random(len(truth_NC))[:, None] > truth_NC.cumsum(axis=1)).sum(axis=1).clip(0, 2)
    strengths = [
        float(fit_dirichlet(fit_rows_of(closed(logits_NC[:n]), label_N[:n])).notes[0].split()[-1])
        for n in (40, 3_000)
    ]
    assert strengths[0] > strengths[1]


def test_a_missing_label_is_named():
    rows = fit_rows_of(ROWS.closed_NC, np.where(LABEL_N == 3, 0, LABEL_N))
    for fit in (fit_vector, fit_dirichlet):
        with pytest.raises(DataError, match=r"none of 300 rows has label 'choice 3'") as e:
            fit(rows)
        assert "temperature" in e.value.hint
