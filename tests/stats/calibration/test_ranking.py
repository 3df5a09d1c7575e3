from itertools import combinations

import numpy as np
import pytest
from scipy.stats import binomtest, kendalltau, spearmanr

from demur.base.errors import DataError
from demur.stats.calibration.ranking import correlation, correlations, rank


def test_rank_correlations_are_scipys_with_ties():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 5, 30).astype(float), rng.integers(0, 5, 30).astype(float)
    assert correlation(a, b).value == pytest.approx(kendalltau(a, b).statistic)
    assert correlation(a, b, "spearman").value == pytest.approx(spearmanr(a, b).statistic)


def test_a_matrix_of_correlations_is_symmetric_with_a_diagonal_of_1():
    rng = np.random.default_rng(1)
    found = np.array(
        [[f.value for f in row] for row in correlations(list(rng.random((4, 12))), "spearman")]
    )
    assert np.diag(found) == pytest.approx(np.ones(4))
    assert found == pytest.approx(found.T)


def test_correlations_that_mean_nothing_are_undefined_with_the_reason():
    assert "2 cases" in correlation(np.array([1.0, 2.0]), np.array([1.0, 2.0])).why
    assert "same in every case" in correlation(np.ones(5), np.arange(5.0)).why


def test_undefined_measurements_leave_the_correlation_of_the_others():
    a = np.array([1.0, 2.0, np.nan, 3.0])
    assert correlation(a, np.array([1.0, 2.0, 9.0, 3.0])).value == pytest.approx(1)


def ranked(names, error_XL, kinds=None):
    return rank(names, error_XL, np.arange(len(error_XL)) if kinds is None else np.array(kinds))


def test_ties_share_their_rank_and_their_place():
    found = ranked(("none", "a", "b"), np.tile([0.3, 0.1, 0.1], (20, 1)))
    assert [(s.calibrator, s.mean_rank, s.place) for s in found.standings] == [
        ("a", 1.5, 1),
        ("b", 1.5, 1),
        ("none", 3, 3),
    ]
    assert [s.best_in for s in found.standings] == [20, 20, 0]
    assert [s.behind for s in found.standings] == [(), (), ("a", "b")]


def test_few_kinds_do_not_tell_calibrators_apart_and_enough_do():
    error_L = [0.3, 0.2, 0.1]
    needed = ranked(("x", "y", "z"), np.tile(error_L, (2, 1))).needed
    few, enough = (ranked(("x", "y", "z"), np.tile(error_L, (n, 1))) for n in (needed - 1, needed))
    assert {s.place for s in few.standings} == {1}
    assert [(s.calibrator, s.place) for s in enough.standings] == [("z", 1), ("y", 2), ("x", 3)]
    # three pairs: twice the tail 2^-needed is at most 5 % / 3
    assert 2 * 0.5**needed <= 0.05 / 3 < 2 * 0.5 ** (needed - 1)


def test_seeds_of_one_kind_count_once_by_their_mean():
    by_kind = np.tile([0.3, 0.2, 0.1], (7, 1))
    seeds = np.repeat(by_kind, 5, axis=0) + np.tile([[-0.1], [-0.05], [0], [0.05], [0.1]], (7, 1))
    kinds = np.repeat(np.arange(7), 5)
    found = ranked(("x", "y", "z"), seeds, kinds)
    assert (found.cases, found.kinds) == (35, 7)
    assert found.standings == ranked(("x", "y", "z"), by_kind).standings


def test_one_kind_ranks_nothing_however_many_models_it_has():
    found = ranked(("x", "y"), np.tile([0.2, 0.1], (40, 1)), [3] * 40)
    assert (found.standings, found.cases, found.kinds) == ((), 40, 1)
    assert ranked(("alone",), np.array([[0.1], [0.2]])).standings[0].place == 1


def test_pairs_are_told_apart_by_exact_sign_tests_as_holm_orders_them():
    rng = np.random.default_rng(3)
    error_KL = rng.random((40, 4)) + np.array([0, 0.2, 0.4, 0.8])
    found = {s.calibrator: s.behind for s in ranked(tuple("abcd"), error_KL).standings}
    tested = []
    for one, other in combinations(range(4), 2):
        won = int((error_KL[:, one] < error_KL[:, other]).sum())
        tested.append((binomtest(won, 40).pvalue, "abcd"[one], "abcd"[other]))
    shown = set()
    for left, (p, one, other) in zip(range(6, 0, -1), sorted(tested), strict=True):
        if p > 0.05 / left:
            break
        shown.add((one, other))
    assert {(one, other) for other, behind in found.items() for one in behind} == shown
    assert 0 < len(shown) < 6


def test_cases_with_an_undefined_measurement_do_not_count():
    error_XL = np.array([[0.2, 0.1], [np.nan, 0.1], [0.4, 0.3]])
    assert ranked(("x", "y"), error_XL).cases == 2
    with pytest.raises(DataError, match="in no case"):
        ranked(("x", "y"), error_XL[1:2])
    with pytest.raises(DataError, match="2 calibrators"):
        ranked(("x", "y"), error_XL[:, :1])
    with pytest.raises(DataError, match="2 cases"):
        ranked(("x", "y"), error_XL, [0, 1])
