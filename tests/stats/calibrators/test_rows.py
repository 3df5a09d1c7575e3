import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from demur.base.errors import DataError, ScoreError
from demur.core.calibrator import closed
from demur.stats.calibrators.rows import FitRows, fit_rows, folds
from tests.builders import simulated_rows, taxonomy


def grouped(groups):
    label_N = np.arange(len(groups)) % 3
    return FitRows(
        closed_NC=closed(np.eye(3)[label_N]),
        label_N=label_N,
        group_N=np.array(groups),
        choices=("a", "b", "c"),
    )


@given(
    st.lists(st.integers(0, 15), min_size=20, max_size=60).filter(lambda g: len(set(g)) >= 5),
    st.integers(0, 9),
)
def test_folds_hold_every_row_out_once_and_never_part_a_group(groups, seed):
    rows = grouped(groups)
    parts = list(folds(rows, 5, seed))
    assert sorted(np.concatenate([out for _, out in parts]).tolist()) == list(range(len(groups)))
    for fit, out in parts:
        assert not set(rows.group_N[fit]) & set(rows.group_N[out])
        assert len(fit) + len(out) == len(groups)


def test_folds_deal_the_labels_evenly():
    rows = grouped(list(range(60)))
    for _, out in folds(rows, 5, 0):
        assert np.bincount(rows.label_N[out]).tolist() == [4, 4, 4]


def test_fewer_groups_than_folds_are_refused():
    with pytest.raises(DataError, match="2 groups cannot fill 5 folds"):
        list(folds(grouped([0, 1] * 15), 5, 0))


def test_rows_without_a_group_stand_alone_and_equal_groups_stay_together():
    rows = simulated_rows(30, 2, 0)
    found = fit_rows(rows, taxonomy(2), ["row-1", None, *["twin"] * 28])
    assert len(set(found.group_N.tolist())) == 3
    assert len(set(fit_rows(rows, taxonomy(2)).group_N.tolist())) == 30


def test_scores_of_another_taxonomy_and_a_wrong_number_of_groups_are_refused():
    rows = simulated_rows(30, 2, 0)
    with pytest.raises(ScoreError, match=r"shape \(30, 3\) for 4 control tokens"):
        fit_rows(rows, taxonomy(3))
    with pytest.raises(DataError, match="2 groups for 30 rows"):
        fit_rows(rows, taxonomy(2), ["a", "b"])
