"""Rows without an outcome are errors of every promise, whatever the thresholds are."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from demur.base.errors import DataError
from demur.core.decision import decide_many
from demur.core.goals.parse import parse_goal, parse_goals
from demur.core.policy import CategoryPolicy, Policy
from demur.core.predictor import predictor_fingerprint, predictor_scores
from demur.core.score import ScoreTable
from demur.core.taxonomy import single
from demur.stats.labelled import LabelledScores
from demur.stats.missing import with_missing


def rows_of(probability_N, label_N, **more):
    ids = tuple(f"r{n}" for n in range(len(probability_N)))
    table = ScoreTable(ids=ids, logp_NC=predictor_scores(probability_N))
    return LabelledScores(
        table=table, label_N=np.array(label_N), group_N=np.arange(len(ids)), **more
    )


@given(st.floats(1e-6, 1 - 1e-6), st.integers(1, 9))
def test_each_is_a_miss_and_a_false_refusal_at_every_threshold_that_tells_anything(
    threshold, missing
):
    rows = with_missing(rows_of([0.9, 0.1], [1, 0]), missing)
    policy = Policy(
        name="p",
        taxonomy=single(),
        rule="heaviest",
        categories=(CategoryPolicy(threshold=threshold),),
        fingerprint=predictor_fingerprint("a" * 64, single().tokens, "prompts"),
    )
    refused_N = decide_many(policy, rows.table.logp_NC).refuses_N[2:]
    label_N = rows.label_N[2:]
    assert not refused_N[label_N == 1].any()
    assert refused_N[label_N == 0].all()
    assert (label_N == 1).sum() == (label_N == 0).sum() == missing
    own = rows.group_N[2:]
    assert len(set(own.tolist())) == missing
    assert not set(own.tolist()) & {0, 1}


def test_a_promise_about_all_prompts_does_not_go_with_missing_ones():
    rows, goals = rows_of([0.9, 0.1], [1, 0]), [parse_goal("refusal_rate <= 0.2")]
    with pytest.raises(DataError, match="3 of them have no outcome"):
        with_missing(rows, 3, goals)
    assert with_missing(rows, 0, goals) is rows


def test_none_missing_changes_nothing_and_hand_labels_do_not_go_with_missing_ones():
    rows = rows_of([0.9, 0.1], [1, 0])
    assert with_missing(rows, 0) is rows
    with pytest.raises(DataError, match="3 prompts have no outcome"):
        with_missing(rows_of([0.9, 0.1], [1, 0], hand_N=np.array([1, -1])), 3)


@pytest.mark.parametrize(
    "goal", ["false_refusal[turn=later] <= 0.1", "false_refusal <= 0.1 in every source"]
)
def test_a_slice_that_they_may_be_in_is_not_promised(goal):
    with pytest.raises(DataError, match="3 prompts without an outcome may be in it"):
        with_missing(rows_of([0.2, 0.9], [0, 1]), 3, parse_goals(goal))
