from dataclasses import replace

import numpy as np
import pytest

from demur.base.errors import DataError, ScoreError, TaxonomyError
from demur.core.example import Example, Message
from demur.stats.labelled import LabelledScores, label_scores
from tests.builders import labelled, log_softmax, table, taxonomy


def example(id, kind, category=None):
    return Example(
        id=id,
        source="s",
        messages=(Message(role="user", content=id),),
        kind=kind,
        category=category,
    )


def test_labels_follow_the_examples_and_their_order():
    scores = table(log_softmax([[0, 1, 2], [2, 1, 0], [1, 1, 1]]))
    examples = [
        example("row-2", "refusal", "humanizing"),
        example("row-0", "contrast", "safety"),
        example("row-1", "benign"),
    ]
    rows = label_scores(examples, taxonomy(2), scores)
    assert rows.table.ids == ("row-2", "row-0", "row-1")
    assert rows.label_N.tolist() == [2, 0, 0]
    assert (rows.to_answer, rows.to_refuse) == (2, 1)


def test_an_unknown_category_and_a_missing_score_are_named():
    with pytest.raises(TaxonomyError, match="'weather'"):
        label_scores(
            [example("row-0", "refusal", "weather")], taxonomy(2), table(log_softmax([[0, 0, 0]]))
        )
    with pytest.raises(ScoreError, match="'row-9'"):
        label_scores([example("row-9", "benign")], taxonomy(2), table(log_softmax([[0, 0, 0]])))


@pytest.mark.parametrize(
    ("label_N", "message"),
    [
        ([0], r"\(1,\) for 2"),
        ([0, 3], "'row-1' has label 3, expected 0 to 2"),
        ([-1, 0], "'row-0' has label -1"),
    ],
)
def test_labels_that_do_not_fit_the_scores_are_refused(label_N, message):
    with pytest.raises(DataError, match=message):
        labelled(log_softmax([[0, 0, 0], [0, 0, 0]]), label_N)


def test_labels_are_integers():
    with pytest.raises(DataError, match="expected integers"):
        LabelledScores(table=table(log_softmax([[0, 0]])), label_N=np.array([0.0]))


def test_no_rows_are_refused():
    with pytest.raises(DataError, match="no scored row"):
        labelled(np.zeros((0, 2), dtype=np.float32), [])


def _examples(*units):
    """One row a unit, given as fields of Example."""
    return [
        Example(
            id=f"row-{n}",
            source="s",
            messages=(Message(role="user", content=str(n)),),
            kind="benign",
            **unit,
        )
        for n, unit in enumerate(units)
    ]


def test_rows_of_one_group_or_session_share_a_number_and_others_have_their_own():
    examples = _examples(
        {"group": "g"},
        {"group": "g"},
        {"session": "g2"},
        {"session": "g2"},
        {},
        {},
    )
    group_N = label_scores(examples, taxonomy(2), table(log_softmax([[0, 0, 0]] * 6))).group_N
    assert group_N[0] == group_N[1]
    assert group_N[2] == group_N[3]
    assert len(set(group_N.tolist())) == 4


def test_a_group_that_spans_two_sources_is_one():
    rows = [
        replace(e, source=f"s{n}") for n, e in enumerate(_examples({"group": "g"}, {"group": "g"}))
    ]
    group_N = label_scores(rows, taxonomy(2), table(log_softmax([[0, 0, 0]] * 2))).group_N
    assert group_N.tolist() == [0, 0]


def test_counts_are_kept_and_must_be_whole_and_positive():
    rows = label_scores(
        _examples({"count": 3}, {}), taxonomy(2), table(log_softmax([[0, 0, 0]] * 2))
    )
    assert rows.count_N.tolist() == [3, 1]
    for wrong in ([0, 1], [1.5, 1.0], [1]):
        with pytest.raises(DataError, match="count"):
            replace(rows, count_N=np.array(wrong))


def test_groups_that_do_not_fit_are_refused():
    with pytest.raises(DataError, match="groups of shape"):
        LabelledScores(
            table=table(log_softmax([[0, 0]])), label_N=np.array([0]), group_N=np.array([0, 1])
        )
