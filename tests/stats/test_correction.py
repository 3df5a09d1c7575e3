import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from demur.core.errors import DataError, Undefined
from demur.stats.correction import regression_rate, stratified_rate


def population(n, rate, sensitivity, specificity, seed=0):
    rng = np.random.default_rng(seed)
    hand_N = (rng.random(n) < rate).astype(float)
    right = np.where(hand_N == 1, sensitivity, specificity)
    judge_N = np.where(rng.random(n) < right, hand_N, 1 - hand_N)
    return judge_N, hand_N


def checked(n, count, rng):
    known_N = np.zeros(n, dtype=bool)
    known_N[rng.choice(n, count, replace=False)] = True
    return known_N


def test_a_judge_that_never_errs_gives_the_rate_of_all_rows_without_doubt():
    judge_N, hand_N = population(500, 0.3, 1.0, 1.0)
    found = regression_rate(judge_N, hand_N, checked(500, 60, np.random.default_rng(1)))
    assert found.value == pytest.approx(hand_N.mean())
    assert found.high - found.low < 1e-9


def test_a_judge_that_says_nothing_leaves_the_mean_of_the_hand():
    _, hand_N = population(500, 0.3, 1.0, 1.0)
    known_N = checked(500, 60, np.random.default_rng(1))
    found = regression_rate(np.ones(500), hand_N, known_N)
    assert found.value == pytest.approx(hand_N[known_N].mean())


def test_every_row_labelled_is_no_estimate_at_all():
    judge_N, hand_N = population(50, 0.4, 0.7, 0.7)
    found = regression_rate(judge_N, hand_N, np.ones(50, dtype=bool))
    assert found.value == found.low == found.high == hand_N.mean()


def test_a_rare_thing_gets_the_exact_interval_of_the_hand_labels():
    judge_N, hand_N = population(2000, 0.01, 0.9, 0.99)
    found = regression_rate(judge_N, hand_N, checked(2000, 100, np.random.default_rng(1)))
    assert "exact" in found.method
    assert 0.0 <= found.low <= found.value <= found.high


def test_too_few_labels_are_undefined_with_what_would_do():
    judge_N, hand_N = population(100, 0.5, 0.9, 0.9)
    with pytest.raises(Undefined, match="9 of 100 rows") as e:
        regression_rate(judge_N, hand_N, checked(100, 9, np.random.default_rng(1)))
    assert "at least 10" in e.value.hint


def test_what_is_no_label_is_refused():
    judge_N, hand_N = population(20, 0.5, 0.9, 0.9)
    known_N = np.ones(20, dtype=bool)
    with pytest.raises(DataError, match="neither 0 nor 1"):
        regression_rate(judge_N, np.full(20, 0.5), known_N)
    with pytest.raises(DataError, match="19 by hand"):
        regression_rate(judge_N, hand_N[:19], known_N)


@settings(max_examples=40)
@given(st.floats(0.1, 0.9), st.floats(0.0, 1.0), st.floats(0.0, 1.0), st.integers(0, 99))
def test_flipping_what_counts_flips_the_estimate(rate, sensitivity, specificity, seed):
    judge_N, hand_N = population(400, rate, sensitivity, specificity, seed)
    known_N = checked(400, 80, np.random.default_rng(seed))
    found, flipped = regression_rate(judge_N, hand_N, known_N), regression_rate(judge_N, 1 - hand_N, known_N)
    assert flipped.value == pytest.approx(1 - found.value)
    assert (flipped.low, flipped.high) == pytest.approx((1 - found.high, 1 - found.low))


def test_strata_mend_a_judge_that_errs_in_one_of_them_and_was_checked_there_more_often():
    judge_N, hand_N = (
        np.concatenate(p) for p in zip(population(900, 0.2, 1, 1), population(300, 0.5, 0, 1, 1), strict=True)
    )
    strata = ["easy"] * 900 + ["hard"] * 300
    rng, misses, plain = np.random.default_rng(3), 0, []
    for _ in range(200):
        known_N = np.concatenate([checked(900, 30, rng), checked(300, 70, rng)])
        found = stratified_rate(judge_N, hand_N, known_N, strata)
        misses += not found.low <= hand_N.mean() <= found.high
        plain.append(hand_N[known_N].mean())
    assert misses <= 20
    assert np.mean(plain) > hand_N.mean() + 0.05  # what a plain mean of these labels would say
    with pytest.raises(Undefined, match="stratum 'easy'"):
        stratified_rate(judge_N, hand_N, np.concatenate([np.zeros(900, bool), known_N[900:]]), strata)
