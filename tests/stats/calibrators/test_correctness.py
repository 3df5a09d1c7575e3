import numpy as np
import pytest

from demur.base.errors import DataError, ScoreError
from demur.core.calibrator import closed
from demur.core.maps.correctness import rewrite_features
from demur.core.score import ScoreTable
from demur.stats.calibrators.adam import Adam
from demur.stats.calibrators.correctness import CorrectnessSettings, fit_correctness, network_on
from tests.builders import labelled, log_softmax, table, taxonomy
from tests.stats.calibrators.golden import CLOSED_NC, CORRECTNESS, GOLDEN, ROWS, near

FEATURES_NF = rewrite_features(CLOSED_NC, closed(GOLDEN["logits_cal_transforms"]), top=4, own=False)
THETA_P = np.concatenate(
    [np.ravel(CORRECTNESS["W1"]), CORRECTNESS["b1"], CORRECTNESS["W2"], [CORRECTNESS["b2"]]]
)
CATEGORIES = taxonomy(5)


def network(class_balanced):
    return network_on(ROWS, FEATURES_NF, CorrectnessSettings(class_balanced=class_balanced))


def rows_and_rewrites(n=400, seed=1):
    rng = np.random.default_rng(seed)
    logits_NC = rng.normal(size=(n, 6)) * 2.0
    label_N = np.where(rng.random(n) < 0.6, logits_NC.argmax(axis=1), rng.integers(0, 6, n))
    wrong_N1 = (logits_NC.argmax(axis=1) != label_N)[:, None]
    noise = {name: rng.normal(size=(n, 6)) * (0.2 + 2.5 * wrong_N1) for name in ("case", "typos")}
    rewritten = {name: table(log_softmax(logits_NC + d)) for name, d in noise.items()}
    return labelled(log_softmax(3.0 * logits_NC), label_N), rewritten


def test_features_temperatures_and_losses_equal_the_reference():
    near(FEATURES_NF[:3], CORRECTNESS["features_first3"], 1e-10)
    balanced, plain = network(True), network(False)
    near(balanced.loss(THETA_P)[0], CORRECTNESS["loss_class_balanced"], 1e-10)
    near(plain.loss(THETA_P)[0], CORRECTNESS["loss_unweighted"], 1e-10)
    near(balanced.right_N.mean(), CORRECTNESS["accuracy_cal"], 1e-12)
    record = balanced.record(THETA_P, CATEGORIES.tokens, ("a", "b", "c"), own=False)
    temperature_N = record.temperature(FEATURES_NF)
    near(temperature_N[:5], CORRECTNESS["temperature_first5"], 1e-10)
    confidence_N = np.exp(closed(CLOSED_NC / temperature_N[:, None])).max(axis=1)
    near(confidence_N[:5], CORRECTNESS["confidence_first5"], 1e-10)


def test_the_gradient_equals_the_reference_and_the_slope():
    _, gradient_P = network(True).loss(THETA_P)
    near(gradient_P[-1], CORRECTNESS["grad_b2"], 1e-10)
    near(gradient_P[-6:-1], CORRECTNESS["grad_W2"], 1e-10)
    theta_P = THETA_P + 0.1 * np.random.default_rng(0).normal(size=len(THETA_P))
    steps = 1e-6 * np.eye(len(theta_P))
    slopes = [
        (network(True).loss(theta_P + s)[0] - network(True).loss(theta_P - s)[0]) / 2e-6
        for s in steps
    ]
    near(network(True).loss(theta_P)[1], slopes, 1e-8)


def test_training_follows_the_reference():
    expected = CORRECTNESS["train_full_batch_adam_lr0.01"]["loss_before_step"]
    adam, trained = Adam(THETA_P, 0.01), network(True)
    for step in range(301):
        loss, gradient_P = trained.loss(adam.theta_P)
        if str(step) in expected:
            assert abs(loss / expected[str(step)] - 1.0) <= 1e-6
        adam.step(gradient_P)


def test_rows_that_rewrites_disturb_come_out_less_sure_and_no_row_is_reordered():
    rows, rewritten = rows_and_rewrites()
    fit = fit_correctness(rows, rewritten, CATEGORIES)
    rewritten_MNC = np.stack([t.logp_NC for t in rewritten.values()])
    logq_NC = fit.calibrator.apply(rows.table.logp_NC, rewritten_MNC)
    right_N = rows.table.logp_NC.argmax(axis=1) == rows.label_N
    top_N, before_N = np.exp(logq_NC).max(axis=1), np.exp(rows.table.logp_NC).max(axis=1)
    assert (
        top_N[right_N].mean() - top_N[~right_N].mean()
        > before_N[right_N].mean() - before_N[~right_N].mean() + 0.05
    )
    assert ((top_N - right_N) ** 2).mean() < ((before_N - right_N) ** 2).mean()
    assert (logq_NC.argmax(axis=1) == rows.table.logp_NC.argmax(axis=1)).all()
    assert logq_NC.dtype == np.float32
    assert 0.0 <= fit.clamped < 0.5
    alone = fit.calibrator.apply(rows.table.logp_NC[7:8], rewritten_MNC[:, 7:8])
    assert np.array_equal(alone[0], logq_NC[7])


def test_missing_rewrites_other_rows_and_rows_without_a_mistake_are_refused():
    rows, rewritten = rows_and_rewrites(60)
    with pytest.raises(DataError, match="without a rewrite"):
        fit_correctness(rows, {}, CATEGORIES)
    strangers = ScoreTable(ids=tuple(f"x{n}" for n in range(60)), logp_NC=rows.table.logp_NC)
    with pytest.raises(DataError, match="rewrite 'case' was scored on other rows"):
        fit_correctness(rows, {"case": strangers}, CATEGORIES)
    right = labelled(rows.table.logp_NC, rows.table.logp_NC.argmax(axis=1))
    with pytest.raises(DataError, match="right on all 60 rows"):
        fit_correctness(right, rewritten, CATEGORIES)
    fitted = fit_correctness(rows, rewritten, CATEGORIES).calibrator
    with pytest.raises(ScoreError, match="for 2 rewrites"):
        fitted.apply(rows.table.logp_NC, rows.table.logp_NC[None])
