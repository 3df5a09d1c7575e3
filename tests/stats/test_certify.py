import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from demur.core import bounds
from demur.core.guarantee import Certified, Infeasible, Uncertified
from demur.core.policy import NEVER
from demur.stats.certify import certify_false_refusal

GOLDEN = json.loads((Path(__file__).parent.parent / "golden" / "thresholds.json").read_text())["one_score"]
SCORES = st.lists(st.sampled_from([-3.0, -1.0, -0.5, -0.25, -0.1, -1e-3, 0.0]), min_size=1, max_size=60)


@pytest.mark.parametrize("expected", GOLDEN["order_statistic"])
def test_the_closed_form_equals_the_golden_order_statistics(expected):
    score_N, refuse_N = np.array(GOLDEN["score_per_mille"]), np.array(GOLDEN["to_refuse"], dtype=bool)
    comply_N = np.log(score_N[~refuse_N] / 1000).astype(np.float32)
    done = certify_false_refusal(comply_N, expected["level"], expected["delta"])
    assert isinstance(done, Certified)
    assert (done.evidence[0].rate.hits, done.evidence[0].rate.of) == (expected["empirical_false_refusals"], len(comply_N))
    assert expected["refuse_iff_score_greater_than"] < done.thresholds[0] < expected["refuse_iff_score_greater_than"] + 5e-4
    assert done.evidence[0].p_value == pytest.approx(expected["p_value"], rel=1e-9)


@given(values=SCORES, level=st.sampled_from((0.1, 0.3, 0.6)), delta=st.sampled_from((0.05, 0.2)))
def test_the_closed_form_is_fixed_sequence_testing_over_every_observed_score(values, level, delta):
    comply_N = np.array(values, dtype=np.float32)
    lowest = NEVER
    for value in sorted(set(values), reverse=True):  # strict to lenient, stop at the first that cannot be certified
        if bounds.binomial_cdf(int((comply_N >= np.float32(value)).sum()), len(values), level) > delta:
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
        [certify_false_refusal(comply_N, level, delta).thresholds[0] for level in (0.01, 0.02, 0.05, 0.1, 0.3)]
        for delta in (0.05, 0.1, 0.2)
    ]
    assert (np.diff(thresholds, axis=0) <= 0).all()
    assert (np.diff(thresholds, axis=1) <= 0).all()


def test_too_few_rows_are_infeasible_with_the_number_that_would_do():
    done = certify_false_refusal(np.full(58, -1, dtype=np.float32), 0.05, 0.05)
    assert isinstance(done, Uncertified)
    assert (done.rows, done.rows_needed) == (58, 59)
    assert isinstance(certify_false_refusal(np.full(59, -1, dtype=np.float32), 0.05, 0.05), Certified)


def test_saturated_scores_are_infeasible_and_never_the_threshold_never():
    done = certify_false_refusal(np.zeros(500, dtype=np.float32), 0.05, 0.05)
    assert isinstance(done, Infeasible)
    assert "q = 1" in done.reason
