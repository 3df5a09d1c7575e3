from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from demur.base.errors import DataError, Undefined
from demur.stats.measure import auroc, errors_of
from demur.stats.points import (
    auroc_interval,
    f1_interval,
    precision_recall_points,
    reliability_bins,
    roc_points,
)
from demur.stats.units import RowUnits


def alone(rows):
    return RowUnits.of(rows)


def copies():
    """Four rows of each of a hundred units."""
    return RowUnits.of(400, np.arange(400) % 100)


@st.composite
def scored(draw):
    should = [True, False, *draw(st.lists(st.booleans(), max_size=20))]
    scores = draw(st.lists(st.integers(0, 8), min_size=len(should), max_size=len(should)))
    return np.array(should), np.array(scores, dtype=np.float64)


@given(scored())
def test_curve_points_are_the_rates_of_refusing_at_their_score(case):
    should_N, score_N = case
    for point in roc_points(should_N, score_N):
        e = errors_of(should_N, score_N >= point.score, alone(len(should_N)))
        assert (point.x, point.y) == pytest.approx((e.false_refusal.value, e.caught.value))
    for point in precision_recall_points(should_N, score_N):
        e = errors_of(should_N, score_N >= point.score, alone(len(should_N)))
        assert (point.x, point.y) == pytest.approx((e.caught.value, e.precision.value))


@given(scored())
def test_curves_run_from_strict_to_lenient_and_the_area_is_auroc(case):
    should_N, score_N = case
    for points in (roc_points(should_N, score_N), precision_recall_points(should_N, score_N)):
        assert all(a.score > b.score for a, b in pairwise(points))
    x, y = zip((0.0, 0.0), *((p.x, p.y) for p in roc_points(should_N, score_N)), strict=True)
    assert np.trapezoid(y, x) == pytest.approx(auroc(should_N, score_N).value)


def test_curves_need_both_kinds():
    for points in (roc_points, precision_recall_points):
        with pytest.raises(Undefined, match="both kinds"):
            points(np.array([True]), np.array([1.0]))


@given(case=scored(), bins=st.integers(1, 12), seed=st.integers(0, 5))
def test_reliability_bins_hold_every_row_once_share_no_value_and_ignore_row_order(case, bins, seed):
    should_N, score_N = case
    q_N = score_N / 8
    made = reliability_bins(should_N, q_N, alone(len(q_N)), bins)
    assert len(made) <= bins
    assert sum(b.observed.of for b in made) == len(q_N)
    assert sum(b.observed.hits for b in made) == should_N.sum()
    assert all(a.high < b.low for a, b in pairwise(made))
    assert sum(b.mean * b.observed.of for b in made) == pytest.approx(q_N.sum())
    order = np.random.default_rng(seed).permutation(len(q_N))
    again = reliability_bins(should_N[order], q_N[order], alone(len(q_N)), bins)
    assert [(b.low, b.observed) for b in again] == [(b.low, b.observed) for b in made]


def test_reliability_bins_of_distinct_values_have_equal_mass():
    q_N = np.random.default_rng(0).random(1000)
    assert {b.observed.of for b in reliability_bins(q_N > 0.5, q_N, alone(1000))} == {100}


def test_the_f1_interval_holds_the_value():
    rng = np.random.default_rng(3)
    should_N = rng.random(200) < 0.4
    refused_N = should_N ^ (rng.random(200) < 0.2)
    low, high = f1_interval(should_N, refused_N, alone(200))
    assert low < errors_of(should_N, refused_N, alone(200)).f1.value < high
    assert f1_interval(should_N, should_N, alone(200))[1] == 1.0


def test_copies_in_one_group_do_not_narrow_the_f1_interval():
    rng = np.random.default_rng(4)
    should_N = rng.random(100) < 0.5
    refused_N = should_N ^ (rng.random(100) < 0.2)
    once = f1_interval(should_N, refused_N, alone(100))
    grouped = f1_interval(np.tile(should_N, 4), np.tile(refused_N, 4), copies())
    apart = f1_interval(np.tile(should_N, 4), np.tile(refused_N, 4), alone(400))
    assert np.diff(grouped) == pytest.approx(np.diff(once), rel=0.2)
    assert np.diff(apart) < 0.7 * np.diff(grouped)


def test_the_f1_interval_of_nothing_is_undefined_and_lengths_must_agree():
    nothing = np.zeros(3, dtype=bool)
    with pytest.raises(Undefined, match="neither refused"):
        f1_interval(nothing, nothing, alone(3))
    with pytest.raises(DataError, match="3 labels, 3 decisions, 2 units"):
        f1_interval(~nothing, nothing, alone(2))


def ranked(count, seed=5):
    rng = np.random.default_rng(seed)
    should_N = rng.random(count) < 0.4
    return should_N, np.round(rng.normal(size=count) + 1.2 * should_N, 1)  # with ties


def test_the_auroc_interval_covers_the_true_area_about_as_often_as_it_says():
    truth = auroc(*ranked(200_000)).value
    found = [auroc_interval(*ranked(150, seed), alone(150)) for seed in range(1000)]
    covered = sum(low <= truth <= high for low, high in found)
    assert 0.935 <= covered / 1000 <= 0.975


def test_a_perfect_area_and_the_worst_have_intervals_too():
    should_N = np.arange(60) % 2 == 0
    low, high = auroc_interval(should_N, should_N.astype(float), alone(60))
    assert (0.8 < low < 0.97, high) == (True, 1.0)
    assert auroc_interval(~should_N, should_N.astype(float), alone(60)) == (
        pytest.approx(0.0),
        pytest.approx(1 - low),
    )


def test_a_prompt_counts_in_the_area_as_often_as_it_came():
    should_N, score_N = ranked(100)
    count_N = 1 + np.arange(100) % 5
    low, high = auroc_interval(should_N, score_N, RowUnits.of(100, None, count_N))
    many = auroc(np.repeat(should_N, count_N), np.repeat(score_N, count_N)).value
    assert low < many < high
    assert auroc(should_N, score_N, count_N).value == pytest.approx(many)


def test_copies_in_one_group_do_not_narrow_the_auroc_interval():
    should_N, score_N = ranked(100)
    once = auroc_interval(should_N, score_N, alone(100))
    grouped = auroc_interval(np.tile(should_N, 4), np.tile(score_N, 4), copies())
    assert np.diff(grouped) == pytest.approx(np.diff(once), rel=0.2)
    assert once[0] < auroc(should_N, score_N).value < once[1]


def test_an_auroc_interval_needs_both_kinds_and_equal_lengths():
    with pytest.raises(Undefined, match="rows of both kinds"):
        auroc_interval(np.ones(3, dtype=bool), np.zeros(3), alone(3))
    with pytest.raises(DataError, match="3 labels, 2 scores"):
        auroc_interval(np.ones(3, dtype=bool), np.zeros(2), alone(3))
