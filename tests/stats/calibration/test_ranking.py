import numpy as np
import pytest
from scipy.stats import friedmanchisquare, kendalltau, spearmanr

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


def test_ties_share_their_rank_and_their_place():
    error_XL = np.tile([0.3, 0.1, 0.1], (20, 1))
    found = rank(("none", "a", "b"), error_XL)
    assert [(s.calibrator, s.mean_rank, s.place) for s in found.standings] == [
        ("a", 1.5, 1),
        ("b", 1.5, 1),
        ("none", 3, 3),
    ]
    assert [s.best_in for s in found.standings] == [20, 20, 0]


def test_few_cases_do_not_tell_calibrators_apart_and_many_do():
    few, many = (rank(("x", "y", "z"), np.tile([0.3, 0.2, 0.1], (n, 1))) for n in (2, 100))
    assert {s.place for s in few.standings} == {1}
    assert [(s.calibrator, s.place) for s in many.standings] == [("z", 1), ("y", 2), ("x", 3)]


def test_a_place_is_shared_with_its_first_not_along_a_chain():
    rng = np.random.default_rng(3)
    noise = rng.random((40, 4))
    found = rank(("a", "b", "c", "d"), noise + np.array([0, 0.25, 0.5, 0.75]))
    difference = found.critical_difference.value
    for s in found.standings:
        leader = next(x for x in found.standings if x.place == s.place)
        assert s.mean_rank - leader.mean_rank <= difference
    assert len({s.place for s in found.standings}) > 1


def test_the_friedman_test_is_scipys_and_undefined_without_enough_cases():
    error_XL = np.random.default_rng(2).random((10, 3))
    assert rank(("x", "y", "z"), error_XL).p_value.value == pytest.approx(
        friedmanchisquare(*error_XL.T).pvalue
    )
    assert not rank(("x", "y"), error_XL[:, :2]).p_value.defined
    assert "tied" in rank(("x", "y", "z"), np.ones((10, 3))).p_value.why


def test_the_critical_difference_is_that_of_the_published_table():
    """Demsar 2006, table 5: q at 5 % is 2.343 for 3 classifiers and 2.850 for 6."""
    for size, q in ((3, 2.343), (6, 2.850)):
        found = rank(tuple("abcdef"[:size]), np.random.default_rng(size).random((30, size)))
        assert found.critical_difference.value == pytest.approx(
            q * (size * (size + 1) / (6 * 30)) ** 0.5, abs=1e-3
        )


def test_cases_with_an_undefined_measurement_do_not_count():
    error_XL = np.array([[0.2, 0.1], [np.nan, 0.1], [0.4, 0.3]])
    assert rank(("x", "y"), error_XL).cases == 2
    with pytest.raises(DataError, match="in no case"):
        rank(("x", "y"), error_XL[1:2])
    with pytest.raises(DataError, match="2 calibrators"):
        rank(("x", "y"), error_XL[:, :1])
