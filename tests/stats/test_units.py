import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from demur.core.rates import binomial_cdf, most_errors, upper_bound
from demur.stats.units import count_rows, one_per_group


def everyone(n):
    return np.ones(n, dtype=bool)


@given(st.integers(1, 200), st.floats(0.01, 0.5), st.floats(0.01, 0.3), st.data())
def test_independent_rows_of_one_request_are_tested_by_the_exact_binomial(n, level, delta, data):
    errors = data.draw(st.integers(0, n))
    error_N = np.arange(n) < errors
    rows, most = count_rows(everyone(n), np.arange(n), None, 0), most_errors(n, level, delta)
    test = rows.test(level, delta)
    assert (test is None) == (most is None)
    if test is not None and most is not None:
        assert test.passes(error_N) == (errors <= most)
    assert rows.p_value(error_N, level, delta) == binomial_cdf(errors, n, level)
    assert rows.upper(error_N, delta) == upper_bound(errors, n, delta)


@st.composite
def grouped_errors(draw):
    n = draw(st.integers(2, 60))
    group_N = np.array(draw(st.lists(st.integers(0, 12), min_size=n, max_size=n)))
    count_N = np.array(draw(st.lists(st.integers(1, 9), min_size=n, max_size=n)))
    error_N = np.array(draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    more_N = error_N | np.array(draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    return group_N, count_N, error_N, more_N


@given(grouped_errors(), st.floats(0.05, 0.5), st.floats(0.02, 0.3))
def test_an_error_more_never_helps(case, level, delta):
    group_N, count_N, error_N, more_N = case
    rows = count_rows(everyone(len(group_N)), group_N, count_N, seed=1)
    test = rows.test(level, delta)
    if test is not None:
        assert test.passes(error_N) or not test.passes(more_N)
    assert rows.p_value(error_N, level, delta) <= rows.p_value(more_N, level, delta) + 1e-12


@given(grouped_errors(), st.floats(0.05, 0.5), st.floats(0.02, 0.3))
def test_a_test_passes_where_the_p_value_is_at_most_delta(case, level, delta):
    group_N, count_N, error_N, _ = case
    rows = count_rows(everyone(len(group_N)), group_N, count_N, seed=1)
    test, p = rows.test(level, delta), rows.p_value(error_N, level, delta)
    if abs(p - delta) > 1e-9:
        assert (test is not None and test.passes(error_N)) == (p < delta)


@given(grouped_errors())
def test_the_order_of_rows_changes_nothing_but_the_drawn_row(case):
    group_N, count_N, error_N, _ = case
    order = np.random.default_rng(0).permutation(len(group_N))
    rows = count_rows(everyone(len(group_N)), group_N, count_N, seed=1)
    moved = count_rows(everyone(len(group_N)), group_N[order], count_N[order], seed=1)
    assert rows.rate(error_N) == moved.rate(error_N[order])
    assert sorted(rows.shares(error_N)) == pytest.approx(sorted(moved.shares(error_N[order])))


def test_copies_of_rows_are_no_further_evidence():
    group_N = np.repeat(np.arange(50), 20)
    rows = count_rows(everyone(1000), group_N, None, seed=0)
    alone = count_rows(everyone(50), None, None, seed=0)
    nobody_N = np.zeros(1000, dtype=bool)
    assert rows.units == 50
    assert rows.upper(nobody_N, 0.1) >= alone.upper(nobody_N[:50], 0.1)
    # a level that 1,000 independent rows would certify
    assert rows.test(0.01, 0.1) is None


def test_a_row_that_stands_for_many_requests_is_one_unit():
    count_N = np.array([100, 1, 1, 1])
    rows = count_rows(everyone(4), np.arange(4), count_N, seed=0)
    assert (rows.requests, rows.units) == (103, 4)
    assert rows.rate(np.array([True, False, False, False])).hits == 100
    # 103 requests without an error certify 5 %, four units do not
    assert rows.test(0.05, 0.1) is None


def test_one_row_of_a_group_is_drawn():
    marked_N = one_per_group(np.array([0, 0, 1, 1, 1, 2]), everyone(6), seed=3)
    assert marked_N.sum() == 3


def test_a_row_is_drawn_by_its_part_of_the_requests_of_its_group():
    group_N, count_N = np.array([0, 0, 1, 1]), np.array([9, 1, 1, 1])
    drawn = [one_per_group(group_N, everyone(4), seed, count_N) for seed in range(2000)]
    share = np.mean(drawn, axis=0)
    assert all(marked_N.sum() == 2 for marked_N in drawn)
    assert share == pytest.approx([0.9, 0.1, 0.5, 0.5], abs=0.035)


def test_rows_that_all_taught_say_nothing_by_units():
    everyone_N = np.ones(4, dtype=bool)
    rows = count_rows(everyone_N, None, np.array([40, 1, 1, 1]), 0, taught_N=everyone_N)
    assert rows.measured(np.zeros(4, dtype=bool)).interval() == (0.0, 1.0)
