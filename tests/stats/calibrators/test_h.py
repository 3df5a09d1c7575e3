"""h-calibration: objective, map families, training. The reference computes in float32."""

import numpy as np
import pytest

from demur.base.errors import ConfigError
from demur.core.calibrator import closed
from demur.core.maps.multiclass import PiecewiseLinear, Umnn, clenshaw_curtis
from demur.stats.calibrators.adam import Adam
from demur.stats.calibrators.h.fit import FORMS, HSettings, fit_h
from demur.stats.calibrators.h.loss import HLoss, cluster_weights, gaps, h_loss
from demur.stats.calibrators.h.maps import trainable
from demur.stats.calibrators.temperature import fit_temperature
from tests.stats.calibrators.golden import CLOSED_NC, LABEL_N, ROWS, TEST_NC, H, fit_rows_of, near

WEIGHTINGS = {
    "unweighted": "unweighted",
    "aceweighted": "ACE",
    "eceweighted": "ECE",
    "denweighted": "density",
    "dstweighted": "distance",
}
Q_NC = np.exp(CLOSED_NC)
LOSSES = [
    row for row in H["loss_uncalibrated_cal_set_lossweight_1"] if row["weighting"] in WEIGHTINGS
]


def settings_of(row):
    return HLoss(
        window=row["veclen"],
        tolerance=row["epsilon"],
        weighting=WEIGHTINGS[row["weighting"]],
        leave_one_class_out=row["leave_one_class_out"],
    )


def test_the_loss_equals_the_reference_for_every_window_tolerance_weighting_and_pooling():
    assert len(LOSSES) == 40
    for row in LOSSES:
        near(h_loss(Q_NC, LABEL_N, settings_of(row))[0], row["loss"], 2e-6)


def test_the_clustered_loss_equals_the_reference_on_the_reference_clusters():
    excess_E = np.abs(gaps(Q_NC, LABEL_N, 200)[0])
    size_B = np.array(H["kmeans15_pooled"]["cluster_sizes_in_centroid_order"])
    centre_B = np.array(H["kmeans15_pooled"]["centroids_sorted"])
    top_N = np.searchsorted((centre_B[1:] + centre_B[:-1]) / 2, Q_NC.max(axis=1))
    expected = {
        row["weighting"]: row["loss"]
        for row in H["loss_uncalibrated_cal_set_lossweight_1"]
        if (row["veclen"], row["epsilon"], row["leave_one_class_out"]) == (200, 1e-20, False)
    }
    near(cluster_weights(size_B, np.full(15, 1 / 15)) @ excess_E, expected["cluaceweighted"], 2e-6)
    share_B = np.bincount(top_N, minlength=15) / len(LABEL_N)
    near(cluster_weights(size_B, share_B) @ excess_E, expected["clueceweighted"], 2e-6)


def test_our_deterministic_clusters_stay_near_the_reference():
    for temperature, expected in H["loss_vs_temperature_pooled_veclen200"][
        "cluaceweighted"
    ].items():
        found, _ = h_loss(np.exp(closed(CLOSED_NC / float(temperature))), LABEL_N, HLoss())
        assert abs(found - expected) <= 0.2 * expected


def test_gaps_equal_the_reference():
    gap_E, _ = gaps(Q_NC, LABEL_N, 200)
    near(gap_E[:10], H["gap_vector_veclen200_pooled_first10"], 1e-9)
    near(gap_E[-10:], H["gap_vector_veclen200_pooled_last10"], 1e-9)
    near(gap_E[900], H["gap_vector_veclen200_pooled_index900"], 1e-9)


def test_the_gradient_equals_the_reference():
    for weighting, expected in H["gradient_wrt_log_temperature_at_T1_pooled_veclen200"].items():
        if weighting in WEIGHTINGS:
            _, by_q_NC = h_loss(Q_NC, LABEL_N, HLoss(weighting=WEIGHTINGS[weighting]))
            by_logit_NC = Q_NC * (by_q_NC - (by_q_NC * Q_NC).sum(axis=1, keepdims=True))
            near((by_logit_NC * -CLOSED_NC).sum(), expected, 1e-5)


@pytest.mark.parametrize("leave_one_class_out", [False, True])
def test_the_gradient_is_the_slope_of_the_loss(leave_one_class_out):
    settings = HLoss(window=20, weighting="unweighted", leave_one_class_out=leave_one_class_out)
    _, gradient_NC = h_loss(Q_NC, LABEL_N, settings)
    # too small to change the order
    direction_NC = np.random.default_rng(0).normal(size=Q_NC.shape) * Q_NC * 1e-6
    up, down = (h_loss(Q_NC + s * direction_NC, LABEL_N, settings)[0] for s in (1, -1))
    near((up - down) / 2e-6, (gradient_NC * direction_NC).sum() / 1e-6, 1e-6)


def test_the_loss_is_zero_where_prediction_and_outcome_agree():
    for weighting in ("unweighted", "cluACE", "cluECE", "ACE", "ECE", "density", "distance"):
        assert h_loss(np.eye(6)[LABEL_N], LABEL_N, HLoss(weighting=weighting))[0] == 0.0


def test_the_pooled_loss_of_calibrated_scores_is_lowest_near_temperature_one():
    rng = np.random.default_rng(5)
    logits_NC = rng.normal(size=(8_000, 4)) * 2.0 + np.array([3.0, 0.0, 0.0, 0.0])
    p_NC = np.exp(closed(logits_NC))
    label_N = (rng.random(len(p_NC))[:, None] > p_NC.cumsum(axis=1)).sum(axis=1).clip(0, 3)
    temperatures = np.exp(np.linspace(-0.5, 0.5, 41))
    losses = [h_loss(np.exp(closed(logits_NC / t)), label_N, HLoss())[0] for t in temperatures]
    assert abs(temperatures[int(np.argmin(losses))] - 1.0) <= 0.08


def test_maps_equal_the_reference():
    e = H["ensemble_temperature"]
    ensemble = trainable("linear", 4, CLOSED_NC).map(np.array(e["theta"] + e["omega"]))
    near(np.exp(ensemble.logq(CLOSED_NC[:5])), e["P_cal_first5"], 1e-6)

    p = H["piecewise_linear"]
    score_N2 = np.stack([p["x"], np.zeros(len(p["x"]))], axis=1)
    logq_N2 = PiecewiseLinear(width=p["knot_spacing"], slopes=tuple(p["corrected_slopes"])).logq(
        score_N2
    )
    near(logq_N2[:, 0] - logq_N2[:, 1], p["corrected_output"], 1e-6)

    u = H["umnn"]
    layers = {
        "weights": tuple(tuple(map(tuple, w)) for w in u["weights"]),
        "offsets": tuple(map(tuple, u["biases"])),
    }
    umnn = Umnn(mean=u["mean"], deviation=u["std"], **layers)
    value_NC = (CLOSED_NC[:3] - u["mean"]) / u["std"]
    near(umnn.integral(value_NC.ravel()).reshape(3, 6), u["output_first3"], 1e-4)

    nodes, weights = clenshaw_curtis()
    near(nodes[:5], H["clenshaw_curtis_50"]["nodes_first5"], 1e-6)
    near(weights[:5], H["clenshaw_curtis_50"]["weights_first5"], 1e-6)
    near(weights.sum(), 2.0, 1e-12)


@pytest.mark.parametrize(("form", "size"), [("linear", 5), ("piecewise", 10), ("umnn", 4)])
def test_training_sees_the_map_that_core_applies_and_its_true_slope(form, size):
    family = trainable(form, size, CLOSED_NC)
    rng = np.random.default_rng(2)
    start_P = family.start(1)
    theta_P = start_P * 1.1 + 0.01 * rng.normal(size=len(start_P))
    weight_NC = rng.normal(size=CLOSED_NC.shape)
    q_NC, back = family.value(theta_P)
    # a umnn interpolates while it trains
    near(np.exp(family.map(theta_P).logq(CLOSED_NC)), q_NC, 1e-5)
    steps = 1e-6 * np.eye(len(theta_P))
    slopes = [
        ((family.value(theta_P + s)[0] - family.value(theta_P - s)[0]) * weight_NC).sum() / 2e-6
        for s in steps
    ]
    near(back(weight_NC), slopes, 1e-6)


@pytest.mark.parametrize(("weighting", "tolerance"), [("unweighted", 1e-6), ("cluACE", 0.1)])
def test_400_steps_of_training_follow_the_reference(weighting, tolerance):
    """With clusters only in shape: the reference starts its clusters from random points."""
    trace = H[f"training_trace_ensemble16_{weighting.lower()}_pooled_adam0.005"]
    family = trainable("linear", 16, CLOSED_NC)
    adam = Adam(np.concatenate([np.linspace(0.02, 0.25, 16), np.linspace(0.25, 0.02, 16)]), 0.005)
    found = {}
    for step in range(401):
        q_NC, back = family.value(adam.theta_P)
        loss, by_q_NC = h_loss(q_NC, LABEL_N, HLoss(weighting=weighting))
        found[str(step)] = 1e5 * loss
        adam.step(1e5 * back(by_q_NC))
    for step, expected in trace["loss_before_step"].items():
        assert abs(found[step] / expected - 1.0) <= tolerance
    if weighting == "unweighted":
        near(q_NC[:3], trace["P_cal_first3"], 1e-3)


@pytest.mark.parametrize("form", ["linear", "piecewise", "umnn"])
@pytest.mark.parametrize("selector", ["log loss", "class-wise", "top-label"])
def test_every_form_and_selector_calibrates_overconfident_scores_and_keeps_their_order(
    form, selector
):
    before = _log_loss(ROWS.closed_NC)
    fitted = fit_h(ROWS, HSettings(form=form, size=10, selector=selector, steps=250)).map
    assert _log_loss(fitted.logq(ROWS.closed_NC)) < before - 0.1
    assert (fitted.logq(TEST_NC).argmax(axis=1) == TEST_NC.argmax(axis=1)).all()


def test_the_default_comes_near_the_best_temperature_and_is_deterministic():
    fitted, again = fit_h(ROWS), fit_h(ROWS)
    assert fitted == again
    best = _log_loss(fit_temperature(ROWS).map.logq(ROWS.closed_NC))
    assert _log_loss(fitted.map.logq(ROWS.closed_NC)) < best + 0.01


def test_relabelling_the_columns_relabels_the_fitted_map():
    turn = np.array([2, 0, 1, 5, 4, 3])
    turned = fit_rows_of(ROWS.closed_NC[:, turn], np.argsort(turn)[LABEL_N])
    settings = HSettings(steps=50)
    near(
        fit_h(turned, settings).map.logq(TEST_NC[:, turn]),
        fit_h(ROWS, settings).map.logq(TEST_NC)[:, turn],
        1e-6,
    )


def test_the_twelve_published_settings_are_named():
    assert len(FORMS) == 12


@pytest.mark.parametrize(
    "bad", [{"window": 201}, {"window": 0}, {"tolerance": -1.0}, {"tolerance": float("nan")}]
)
def test_bad_settings_are_refused(bad):
    with pytest.raises(ConfigError, match="h-calibration"):
        HLoss(**bad)
    with pytest.raises(ConfigError, match="at least 1"):
        HSettings(size=0)


def _log_loss(logq_NC):
    return -logq_NC[np.arange(len(LABEL_N)), LABEL_N].mean()
