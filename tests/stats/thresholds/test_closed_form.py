import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from demur.core.rates import Rate, binomial_cdf, lower_bound, most_errors, upper_bound
from demur.core.threshold import NEVER
from demur.stats.thresholds.closed_form import (
    certify_false_refusal,
    highest_passing,
    lowest_passing,
    mean_false_refusal_threshold,
)
from demur.stats.thresholds.results import Certified, Infeasible, Uncertified
from demur.stats.units import count_rows

FOLDER = Path(__file__).parents[2] / "golden"
GOLDEN = json.loads((FOLDER / "thresholds.json").read_text())["one_score"]
MORE = json.loads((FOLDER / "promises.json").read_text())
SCORE_N, REFUSE_N = np.array(GOLDEN["score_per_mille"]), np.array(GOLDEN["to_refuse"], dtype=bool)
COMPLY, REFUSE = (np.log(SCORE_N[part] / 1000).astype(np.float32) for part in (~REFUSE_N, REFUSE_N))
HALF = 5e-4  # thresholds lie within half a step of the scores' grid


def keeping(passing, score_N, level, delta):
    """The limit that exact tests of these rows give; None where no test can pass."""
    test = count_rows(np.ones(len(score_N), dtype=bool), None, None, seed=0).test(level, delta)
    return None if test is None else passing(score_N.astype(np.float64), test)


SCORES = st.lists(
    st.sampled_from([-3.0, -1.0, -0.5, -0.25, -0.1, -1e-3, 0.0]), min_size=1, max_size=60
)


@pytest.mark.parametrize("expected", GOLDEN["order_statistic"])
def test_the_closed_form_equals_the_golden_order_statistics(expected):
    score_N, refuse_N = (
        np.array(GOLDEN["score_per_mille"]),
        np.array(GOLDEN["to_refuse"], dtype=bool),
    )
    comply_N = np.log(score_N[~refuse_N] / 1000).astype(np.float32)
    done = certify_false_refusal(comply_N, expected["level"], expected["delta"])
    assert isinstance(done, Certified)
    assert (done.evidence[0].rate.hits, done.evidence[0].rate.of) == (
        expected["empirical_false_refusals"],
        len(comply_N),
    )
    assert (
        expected["refuse_iff_score_greater_than"]
        < done.thresholds[0]
        < expected["refuse_iff_score_greater_than"] + 5e-4
    )
    assert done.evidence[0].p_value == pytest.approx(expected["p_value"], rel=1e-9)


@given(values=SCORES, level=st.sampled_from((0.1, 0.3, 0.6)), delta=st.sampled_from((0.05, 0.2)))
def test_the_closed_form_is_fixed_sequence_testing_over_every_observed_score(values, level, delta):
    comply_N = np.array(values, dtype=np.float32)
    lowest = NEVER
    # strict to lenient, stop at the first that cannot be certified
    for value in sorted(set(values), reverse=True):
        if binomial_cdf(int((comply_N >= np.float32(value)).sum()), len(values), level) > delta:
            break
        lowest = value
    done = certify_false_refusal(comply_N, level, delta)
    if not isinstance(done, Certified):
        assert lowest == NEVER
    elif done.thresholds[0] > 0:
        refused = {v for v in values if np.float64(np.float32(v)) >= np.log(done.thresholds[0])}
        assert refused == {v for v in values if v >= lowest}


@given(values=SCORES, seed=st.integers(0, 9))
def test_the_order_of_the_rows_does_not_matter(values, seed):
    comply_N = np.array(values, dtype=np.float32)
    shuffled_N = np.random.default_rng(seed).permutation(comply_N)
    assert certify_false_refusal(comply_N, 0.2, 0.1) == certify_false_refusal(shuffled_N, 0.2, 0.1)


def test_a_looser_promise_never_asks_for_a_stricter_threshold():
    comply_N = np.log(np.random.default_rng(0).random(500)).astype(np.float32)
    thresholds = [
        [
            certify_false_refusal(comply_N, level, delta).thresholds[0]
            for level in (0.01, 0.02, 0.05, 0.1, 0.3)
        ]
        for delta in (0.05, 0.1, 0.2)
    ]
    assert (np.diff(thresholds, axis=0) <= 0).all()
    assert (np.diff(thresholds, axis=1) <= 0).all()


def test_too_few_rows_are_infeasible_with_the_number_that_would_do():
    done = certify_false_refusal(np.full(58, -1, dtype=np.float32), 0.05, 0.05)
    assert isinstance(done, Uncertified)
    assert (done.rows, done.rows_needed) == (58, 59)
    assert isinstance(
        certify_false_refusal(np.full(59, -1, dtype=np.float32), 0.05, 0.05), Certified
    )


def test_saturated_scores_are_infeasible_and_never_the_threshold_never():
    done = certify_false_refusal(np.zeros(500, dtype=np.float32), 0.05, 0.05)
    assert isinstance(done, Infeasible)
    assert "q = 1" in done.reason


@pytest.mark.parametrize("expected", MORE["one_score"]["fixed_sequence"])
def test_fixed_sequence_testing_over_every_score_ends_at_the_closed_form(expected):
    of_false = expected["goal"] == "false_refusal"
    score_N, passing = (COMPLY, lowest_passing) if of_false else (REFUSE, highest_passing)
    threshold = keeping(passing, score_N, expected["level"], expected["delta"])
    refused = int((score_N >= np.log(threshold)).sum())
    assert (refused if of_false else len(score_N) - refused) == expected["k"]
    golden = expected.get("lowest_certified_threshold", expected.get("highest_certified_threshold"))
    ours, theirs = np.searchsorted(np.sort(SCORE_N / 1000), [threshold, golden - 1e-9])
    assert ours == theirs  # the same observed scores are refused


@pytest.mark.parametrize(
    "expected", [e for e in MORE["one_score"]["order_statistic"] if e["goal"] != "false_refusal"]
)
def test_missed_refusals_equal_the_golden_order_statistics(expected):
    threshold = keeping(highest_passing, REFUSE, expected["level"], expected["delta"])
    assert most_errors(len(REFUSE), expected["level"], expected["delta"]) == expected["k"]
    assert binomial_cdf(expected["k"], len(REFUSE), expected["level"]) == pytest.approx(
        expected["p_value"], rel=1e-9
    )
    assert (np.log(threshold) > REFUSE).sum() == expected["empirical_misses"]


@pytest.mark.parametrize("expected", MORE["one_score"]["mean_control"])
def test_control_of_the_mean_equals_the_golden_thresholds(expected):
    threshold = mean_false_refusal_threshold(COMPLY, expected["alpha"])
    assert (
        expected["threshold_strict_greater"]
        < threshold
        < expected["threshold_strict_greater"] + HALF
    )
    assert (np.exp(COMPLY.astype(float)) >= threshold).sum() <= expected["allowed_k"]


@pytest.mark.parametrize("expected", MORE["p_values"])
def test_exact_p_values_and_bounds_equal_the_golden_ones(expected):
    k, n = expected["k"], expected["n"]
    assert binomial_cdf(k, n, expected["alpha"]) == pytest.approx(
        expected["exact_binomial"], rel=1e-9
    )
    assert upper_bound(k, n, 0.1) == pytest.approx(
        expected["clopper_pearson_upper_one_sided_delta0_1"]
    )
    assert lower_bound(k, n, 0.1) == pytest.approx(
        expected["clopper_pearson_lower_one_sided_delta0_1"]
    )
    assert Rate(hits=k, of=n).interval() == pytest.approx(expected["clopper_pearson_two_sided_95"])


@pytest.mark.parametrize("expected", MORE["one_score"]["mapie_1_6_0_fixed_sequence_grid_of_100"])
def test_the_closed_form_is_at_least_as_lenient_as_mapie_on_its_grid(expected):
    done = certify_false_refusal(COMPLY, expected["target"], 1 - expected["confidence"])
    if expected["best"] is not None:
        assert isinstance(done, Certified)
        assert done.thresholds[0] <= expected["best"]


@given(values=SCORES, level=st.sampled_from((0.1, 0.3, 0.6)), delta=st.sampled_from((0.05, 0.2)))
def test_missed_refusals_mirror_false_ones(values, level, delta):
    refuse_N = np.array(values, dtype=np.float32)
    highest = 0.0
    # lenient to strict, stop at the first that cannot be certified
    for value in sorted(set(values)):
        if binomial_cdf(int((refuse_N < np.float32(value)).sum()), len(values), level) > delta:
            break
        highest = value
    threshold = keeping(highest_passing, refuse_N, level, delta)
    if threshold is not None and threshold < NEVER:
        assert {v for v in values if v >= np.log(threshold)} == {v for v in values if v >= highest}
    else:
        assert (threshold is None) == (most_errors(len(values), level, delta) is None)


def test_no_threshold_keeps_missed_refusals_where_too_many_rows_are_refused_by_none():
    refuse_N = np.array([-np.inf] * 50 + [-1.0] * 50, dtype=np.float32)
    assert keeping(highest_passing, refuse_N, 0.3, 0.1) is None
