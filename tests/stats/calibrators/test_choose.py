from dataclasses import replace

import numpy as np
import pytest

from demur.base.errors import ConfigError, DataError, PolicyError
from demur.core.calibrator import IDENTITY, Fitted
from demur.core.maps.multiclass import Temperature
from demur.stats.calibrators.choose import AUTO, ChooseSettings, choose_calibrator
from demur.stats.calibrators.families import NAMES, fit_calibrator
from tests.builders import labelled, log_softmax, policy, simulated_rows, taxonomy

QUICK = ("none", "temperature", "platt", "vector", "beta", "histogram", "isotonic", "venn-abers")
SLOW = ("h-umnn-20", "h-umnn-50")  # as h-umnn-10, with more units


def drawn_from_the_truth(n, k, scale, seed):
    """Rows whose labels are drawn from softmax(logits), scored `scale` times too confidently."""
    rng = np.random.default_rng(seed)
    logits_NC = rng.normal(size=(n, k + 1)) * 1.5
    p_NC = np.exp(log_softmax(logits_NC).astype(float))
    label_N = (rng.random(n)[:, None] > p_NC.cumsum(axis=1)).sum(axis=1).clip(0, k)
    return labelled(log_softmax(logits_NC * scale), label_N)


def test_scores_that_are_calibrated_are_left_alone():
    choice = choose_calibrator(
        drawn_from_the_truth(1500, 2, 1.0, 4), taxonomy(2), settings=ChooseSettings(families=QUICK)
    )
    assert choice.family == "none"
    assert choice.calibrator == IDENTITY


@pytest.mark.parametrize("k", [1, 3])
def test_overconfident_scores_get_a_temperature_and_the_reason_is_told(k):
    settings = ChooseSettings(families=QUICK)
    choice = choose_calibrator(
        drawn_from_the_truth(1500, k, 2.5, 5), taxonomy(k), settings=settings
    )
    assert choice.family == "temperature"
    assert isinstance(choice.calibrator, Fitted)
    assert isinstance(choice.calibrator.map, Temperature)
    assert abs(choice.calibrator.map.temperature - 2.5) < 0.4
    assert choice.why.startswith("temperature: log loss ")
    none = next(t for t in choice.trials if t.family == "none")
    lowest = min(t.log_loss for t in choice.trials)
    assert none.behind == pytest.approx(none.log_loss - lowest)
    assert none.behind > 3 * none.noise
    assert [t.family for t in choice.trials] == list(QUICK)


def test_a_family_that_cannot_be_fitted_is_reported_and_passed_over():
    rows = drawn_from_the_truth(200, 3, 2.0, 6)
    rows = replace(rows, label_N=np.where(rows.label_N == 3, 0, rows.label_N))
    choice = choose_calibrator(
        rows, taxonomy(3), settings=ChooseSettings(families=("temperature", "vector"))
    )
    assert choice.family == "temperature"
    assert "'incomplete'" in choice.trials[1].failure
    assert choice.trials[1].log_loss is None
    with pytest.raises(DataError, match="no calibrator can be fitted"):
        choose_calibrator(rows, taxonomy(3), settings=ChooseSettings(families=("vector",)))


def test_copies_of_rows_in_one_group_do_not_count_as_evidence():
    """300 rows six times over: as 1,800 rows they would part families; as 300 groups their noise
    stays the same.
    """
    rows = drawn_from_the_truth(300, 2, 1.3, 7)
    many = labelled(np.tile(rows.table.logp_NC, (6, 1)), np.tile(rows.label_N, 6))
    settings = ChooseSettings(families=("none", "temperature"))
    apart = choose_calibrator(many, taxonomy(2), settings=settings)
    together = choose_calibrator(many, taxonomy(2), [str(n % 300) for n in range(1800)], settings)
    noise = [next(t.noise for t in c.trials if t.noise) for c in (apart, together)]
    assert noise[1] > 2.0 * noise[0]


LABELS = np.arange(60) % 3
NOISE = np.random.default_rng(0).normal(size=(60, 3))
HARD = {
    "scores all equal": (np.zeros((60, 3)), LABELS),
    "labels separable": (np.eye(3)[LABELS] * 8.0, LABELS),
    "labels separable by thousands of nats": (np.eye(3)[LABELS] * 2_000.0, LABELS),
    "scores beyond float64 probabilities": (NOISE * 1e4, LABELS),
    "many tied scores": (np.round(NOISE * 2.0), LABELS),
    "a label seen once": (NOISE, np.where(np.arange(60) == 0, 2, np.arange(60) % 2)),
    "scores that point the wrong way": (NOISE - 4.0 * np.eye(3)[LABELS], LABELS),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("case", sorted(HARD))
def test_hard_rows_give_finite_probabilities_and_no_warning(case):
    logits_NC, label_N = HARD[case]
    rows = labelled(log_softmax(logits_NC), label_N)
    for family in (*AUTO, "h-piecewise-10"):
        logq_NC = fit_calibrator(family, rows, taxonomy(2)).calibrator.apply(rows.table.logp_NC)
        assert np.isfinite(logq_NC).all()
        assert np.abs(np.exp(logq_NC.astype(float)).sum(axis=1) - 1.0).max() < 1e-5


def test_scores_all_equal_leave_nothing_to_map():
    logits_NC, label_N = HARD["scores all equal"]
    with pytest.raises(DataError, match="all scores are equal"):
        fit_calibrator("h-umnn-2", labelled(log_softmax(logits_NC), label_N), taxonomy(2))


def test_a_calibrator_of_another_taxonomy_is_refused_by_the_policy():
    fitted = fit_calibrator("temperature", simulated_rows(60, 2, 9), taxonomy(2))
    with pytest.raises(PolicyError, match="the calibrator was fitted on"):
        replace(policy(3), calibrator=fitted.calibrator)


def test_an_unknown_family_is_named_with_the_nearest_one():
    with pytest.raises(ConfigError, match="'temprature'") as e:
        fit_calibrator("temprature", simulated_rows(60, 2, 9), taxonomy(2))
    assert "'temperature'" in e.value.hint
    with pytest.raises(ConfigError, match="'izotonic'"):
        ChooseSettings(families=("izotonic",))
    with pytest.raises(ConfigError, match="0 calibrators"):
        ChooseSettings(families=())


@pytest.mark.parametrize("family", [n for n in NAMES if n not in SLOW])
def test_every_family_gives_calibrated_probabilities_that_a_policy_takes(family):
    rows = simulated_rows(240, 2, 8)
    fitted = fit_calibrator(family, rows, taxonomy(2))
    calibrated = replace(policy(2), calibrator=fitted.calibrator).calibrator
    logq_NC = calibrated.apply(rows.table.logp_NC)
    assert logq_NC.dtype == np.float32
    assert np.isfinite(logq_NC).all()
    assert np.abs(np.exp(logq_NC.astype(float)).sum(axis=1) - 1.0).max() < 1e-5
    assert fitted.family == family
    # maps of a whole row that keep its order
    if family in ("none", "temperature") or family.startswith("h-"):
        assert np.array_equal(logq_NC.argmax(axis=1), rows.table.logp_NC.argmax(axis=1))
