from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from demur.base.errors import DataError, Undefined
from demur.core.rates import Rate
from demur.stats.judging.correction import (
    CheckedSample,
    Strata,
    labels_rate,
    regression_rate,
    regression_share,
)
from demur.stats.units import RowUnits


def population(n, rate, sensitivity, specificity, seed=0):
    rng = np.random.default_rng(seed)
    hand_N = (rng.random(n) < rate).astype(float)
    right = np.where(hand_N == 1, sensitivity, specificity)
    judge_N = np.where(rng.random(n) < right, hand_N, 1 - hand_N)
    return judge_N, hand_N


def corrected(judge_N, hand_N, known_N, strata=None):
    return regression_rate(
        CheckedSample(judge_N=judge_N, hand_N=hand_N, known_N=known_N, strata=strata)
    )


def beside_fixed(sample, fixed):
    """The sample with so many rows more that decline beyond doubt."""
    rows = {name: np.ones(fixed) for name in ("judge_N", "hand_N")}
    old = {name: getattr(sample, name) for name in rows}
    return CheckedSample(
        **{name: np.append(old[name], rows[name]) for name in rows},
        known_N=np.append(sample.known_N, np.zeros(fixed, dtype=bool)),
        sure_N=np.append(np.zeros(len(sample.known_N), dtype=bool), np.ones(fixed, dtype=bool)),
    )


def checked(n, count, rng):
    known_N = np.zeros(n, dtype=bool)
    known_N[rng.choice(n, count, replace=False)] = True
    return known_N


def test_a_judge_that_was_never_seen_to_err_gives_the_rate_of_all_rows_and_some_doubt():
    judge_N, hand_N = population(500, 0.3, 1.0, 1.0)
    found = corrected(judge_N, hand_N, checked(500, 60, np.random.default_rng(1)))
    assert found.value == pytest.approx(hand_N.mean())
    assert 0.01 < found.high - found.low < 0.15


def test_a_judge_that_says_nothing_leaves_the_mean_of_the_hand():
    _, hand_N = population(500, 0.3, 1.0, 1.0)
    known_N = checked(500, 60, np.random.default_rng(1))
    found = corrected(np.ones(500), hand_N, known_N)
    assert found.value == pytest.approx(hand_N[known_N].mean())


def test_nor_does_it_where_labels_weigh_differently():
    _, hand_N = population(500, 0.3, 1.0, 1.0)
    known_N, strata = in_strata(np.arange(500) % 7 // 3, (40, 37, 11), np.random.default_rng(1))
    found = corrected(np.full(500, 0.7), hand_N, known_N, strata)
    weight_M = (strata.size_S / strata.checked_S)[strata.of_N[known_N]]
    assert found.value == pytest.approx(weight_M @ hand_N[known_N] / weight_M.sum())


def test_with_every_row_labelled_the_rate_is_the_labels_own_with_its_exact_interval():
    judge_N, hand_N = population(50, 0.4, 0.7, 0.7)
    found = corrected(judge_N, hand_N, np.ones(50, dtype=bool))
    assert found.value == hand_N.mean()
    assert (found.low, found.high) == Rate(hits=int(hand_N.sum()), of=50).interval(0.95)
    assert "labels' own rate" in found.method
    should_N = np.arange(50) % 2 == 0
    sample = CheckedSample(judge_N=judge_N, hand_N=hand_N, known_N=np.ones(50, dtype=bool))
    precise, hits = regression_share(sample, should_N), int(hand_N[should_N].sum())
    assert (precise.low, precise.high) == Rate(hits=hits, of=int(hand_N.sum())).interval(0.95)
    with_fixed = regression_share(beside_fixed(sample, 4), np.append(should_N, [1, 1, 1, 0]) == 1)
    assert with_fixed.value == pytest.approx((hits + 3) / (hand_N.sum() + 4))


def test_a_draw_in_strata_without_its_other_rows_is_weighted_and_covers_the_rate_of_all():
    rng, misses = np.random.default_rng(5), 0
    of_N = (np.arange(2000) < 200).astype(int)
    hand_N = (rng.random(2000) < np.where(of_N == 1, 0.8, 0.1)).astype(float)
    for _ in range(200):
        known_N, strata = in_strata(of_N, (60, 60), rng)
        drawn = CheckedSample(
            judge_N=np.zeros(120),
            hand_N=hand_N[known_N],
            known_N=np.ones(120, dtype=bool),
            strata=strata.among(known_N),
        )
        found = labels_rate(drawn)
        misses += not found.low <= hand_N.mean() <= found.high
        assert found.high < hand_N[known_N].mean()
    assert misses <= 17


def test_a_rare_thing_gets_the_exact_interval_of_the_hand_labels():
    judge_N, hand_N = population(2000, 0.01, 0.9, 0.99)
    found = corrected(judge_N, hand_N, checked(2000, 100, np.random.default_rng(1)))
    assert "exact" in found.method
    assert 0.0 <= found.low <= found.value <= found.high


def test_the_estimate_is_the_mean_over_all_choices_of_the_row_that_the_others_weigh():
    """Leave one row out, learn its weight on the others: afresh, row by row."""
    judge_N, hand_N = population(60, 0.4, 0.8, 0.7)
    known_N = checked(60, 40, np.random.default_rng(2))
    known, values = np.flatnonzero(known_N), []
    for row in known:
        others = known[known != row]
        slope = np.cov(judge_N[others], hand_N[others])[0, 1] / np.var(judge_N[others], ddof=1)
        left = np.setdiff1d(np.arange(60), others)  # the row is one draw of these
        rest = hand_N[row] - slope * judge_N[row] + slope * judge_N[left].mean()
        values.append((hand_N[others].sum() + len(left) * rest) / 60)
    assert corrected(judge_N, hand_N, known_N).value == pytest.approx(np.mean(values))


def test_too_few_labels_are_undefined_with_what_would_do():
    judge_N, hand_N = population(100, 0.5, 0.9, 0.9)
    with pytest.raises(Undefined, match="9 of 100 rows") as e:
        corrected(judge_N, hand_N, checked(100, 9, np.random.default_rng(1)))
    assert "at least 10" in e.value.hint


def test_what_is_no_label_is_refused():
    judge_N, hand_N = population(20, 0.5, 0.9, 0.9)
    known_N = np.ones(20, dtype=bool)
    with pytest.raises(DataError, match="neither 0 nor 1"):
        corrected(judge_N, np.full(20, 0.5), known_N)
    with pytest.raises(DataError, match="19 by hand"):
        corrected(judge_N, hand_N[:19], known_N)


@settings(max_examples=40)
@given(st.floats(0.1, 0.9), st.floats(0.0, 1.0), st.floats(0.0, 1.0), st.integers(0, 99))
def test_flipping_what_counts_flips_the_estimate(rate, sensitivity, specificity, seed):
    judge_N, hand_N = population(400, rate, sensitivity, specificity, seed)
    known_N = checked(400, 80, np.random.default_rng(seed))
    found = corrected(judge_N, hand_N, known_N)
    flipped = corrected(1 - judge_N, 1 - hand_N, known_N)
    assert flipped.value == pytest.approx(1 - found.value)
    assert (flipped.low, flipped.high) == pytest.approx((1 - found.high, 1 - found.low))


def in_strata(of_N, per_stratum, rng):
    """Rows drawn at random within strata, and what the estimate must know of the draw."""
    known_N = np.zeros(len(of_N), dtype=bool)
    for s, count in enumerate(per_stratum):
        known_N[rng.choice(np.flatnonzero(of_N == s), count, replace=False)] = True
    return known_N, Strata(of_N=of_N, checked_S=np.array(per_stratum), size_S=np.bincount(of_N))


def test_strata_mend_a_judge_that_errs_in_one_of_them_and_was_checked_there_more_often():
    judge_N, hand_N = (
        np.concatenate(p)
        for p in zip(population(900, 0.2, 1, 1), population(300, 0.5, 0, 1, 1), strict=True)
    )
    of_N, rng, misses, plain = np.repeat([0, 1], [900, 300]), np.random.default_rng(3), 0, []
    for _ in range(200):
        known_N, strata = in_strata(of_N, (30, 70), rng)
        found = corrected(judge_N, hand_N, known_N, strata)
        misses += not found.low <= hand_N.mean() <= found.high
        plain.append(hand_N[known_N].mean())
    assert misses <= 14
    assert np.mean(plain) > hand_N.mean() + 0.05  # what a plain mean of these labels would say


def test_some_of_the_rows_keep_the_weights_of_the_whole_draw():
    judge_N, hand_N = population(1200, 0.3, 0.8, 0.9)
    of_N, rng, misses = np.repeat([0, 1], [900, 300]), np.random.default_rng(4), 0
    asked_N = np.arange(1200) % 3 == 0
    for _ in range(200):
        known_N, strata = in_strata(of_N, (60, 90), rng)
        sample = CheckedSample(
            judge_N=judge_N, hand_N=hand_N, known_N=known_N, strata=strata
        ).among(asked_N)
        found = regression_rate(sample)
        misses += not found.low <= hand_N[asked_N].mean() <= found.high
    assert misses <= 14


def test_one_stratum_is_nearly_no_stratum():
    judge_N, hand_N = population(800, 0.4, 0.8, 0.9)
    known_N, strata = in_strata(np.zeros(800, dtype=int), (120,), np.random.default_rng(1))
    plain, drawn = corrected(judge_N, hand_N, known_N), corrected(judge_N, hand_N, known_N, strata)
    assert drawn.value == pytest.approx(plain.value)
    assert drawn.high - drawn.low == pytest.approx(plain.high - plain.low, rel=0.05)


@pytest.mark.parametrize("draw", ["alike", "in strata"])
@pytest.mark.parametrize(
    ("hits", "sensitivity", "specificity"), [(0.3, 0.8, 0.9), (0.9, 0.9, 0.2), (0.5, 0.5, 0.5)]
)
def test_the_precision_of_what_declines_is_covered(draw, hits, sensitivity, specificity):
    judge_N, hand_N = population(1500, hits, sensitivity, specificity)
    rng, misses = np.random.default_rng(2), 0
    should_N = rng.random(1500) < np.where(hand_N == 1, 0.7, 0.2)
    truth = should_N[hand_N == 1].mean()
    for _ in range(200):
        known_N, strata = in_strata((judge_N == 1).astype(int), (50, 60), rng)
        if draw == "alike":
            known_N, strata = checked(1500, 110, rng), None
        found = regression_share(
            CheckedSample(judge_N=judge_N, hand_N=hand_N, known_N=known_N, strata=strata), should_N
        )
        misses += not found.low <= truth <= found.high
    assert misses <= 17


def test_fixed_refusals_count_in_the_precision_without_a_label():
    judge_N, hand_N = population(600, 0.4, 0.9, 0.9)
    should_N = hand_N == 1
    known_N = checked(600, 100, np.random.default_rng(1))
    sample = CheckedSample(judge_N=judge_N, hand_N=hand_N, known_N=known_N)
    should_not = np.append(should_N, np.zeros(100_000, dtype=bool))
    assert regression_share(beside_fixed(sample, 100_000), should_not).high < 0.01
    with pytest.raises(Undefined, match="no checked row declines"):
        regression_share(
            CheckedSample(judge_N=judge_N, hand_N=0 * hand_N, known_N=known_N), should_N
        )


def test_a_rate_beside_fixed_texts_knows_that_their_share_is_a_draw_too():
    rng = np.random.default_rng(2)
    # 30 of 300 texts are fixed refusals; of the others none declines
    fixed_N = np.arange(300) < 30
    known_N = checked(300, 50, rng) & ~fixed_N
    values = fixed_N.astype(float)
    sample = CheckedSample(judge_N=values, hand_N=values, known_N=known_N, sure_N=fixed_N)
    found = regression_rate(sample)
    assert found.value == pytest.approx(0.1)
    assert found.low < 0.08
    assert found.high > 0.13


def test_a_text_counts_as_often_as_it_was_asked_for():
    judge_N, hand_N = population(200, 0.4, 0.9, 0.9)
    count_N = np.where(np.arange(200) < 10, 20, 1)
    units = RowUnits.of(200, None, count_N)
    everyone_N = np.ones(200, dtype=bool)
    sample = CheckedSample(judge_N=judge_N, hand_N=hand_N, known_N=everyone_N, units=units)
    truth = (count_N @ hand_N) / count_N.sum()
    assert regression_rate(sample).value == pytest.approx(truth)
    rng = np.random.default_rng(0)
    found = [regression_rate(replace(sample, known_N=checked(200, 100, rng))) for _ in range(500)]
    assert np.mean([f.value for f in found]) == pytest.approx(truth, abs=0.01)
