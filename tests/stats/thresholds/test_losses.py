import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from demur.core.decision import decide_many
from demur.core.goals.parse import parse_goal
from demur.core.goals.promised import FalseRefusal
from demur.core.rates import Rate
from demur.stats.thresholds.losses import grouped_scores, losses_of
from demur.stats.thresholds.procedures.task import evidence
from demur.stats.units import count_rows, one_per_group
from tests.builders import THRESHOLDS, labelled, log_softmax, policy, rows, with_category


def test_one_per_group_marks_exactly_one_row_of_each_group_among_those_asked():
    group_N, among_N = (
        np.array([0, 0, 1, 1, 1, 2]),
        np.array([True, True, False, True, True, False]),
    )
    marked_N = one_per_group(group_N, among_N, seed=0)
    assert sorted(group_N[marked_N].tolist()) == [0, 1]
    assert not marked_N[~among_N].any()


@given(data=st.data(), shared=st.booleans())
def test_a_board_refuses_what_decide_many_refuses(data, shared):
    labelled_rows = data.draw(rows(3, max_rows=12))
    template = with_category(policy(3), 1, active=data.draw(st.booleans()))
    grouped = grouped_scores(template, labelled_rows, shared=shared)
    by_group = [data.draw(st.sampled_from(THRESHOLDS)) for _ in grouped.groups]
    chosen = template.with_thresholds(
        dict(zip(template.taxonomy.names, grouped.thresholds(by_group), strict=True))
    )
    assert (
        grouped.refused(by_group) == decide_many(chosen, labelled_rows.table.logp_NC).refuses_N
    ).all()


@given(data=st.data())
def test_rates_of_goals_are_what_their_words_say(data):
    labelled_rows = data.draw(rows(3, min_rows=4, max_rows=12))
    template = policy(3, thresholds=[data.draw(st.sampled_from(THRESHOLDS)) for _ in range(3)])
    grouped, label_N = grouped_scores(template, labelled_rows, shared=False), labelled_rows.label_N
    choice_N = decide_many(template, labelled_rows.table.logp_NC).choice_N
    refused_N, everyone_N = choice_N > 0, np.ones(len(label_N), dtype=bool)
    in_words = {
        "false_refusal <= 0.1": (label_N == 0, refused_N),
        "false_refusal[safety] <= 0.1": (label_N == 0, choice_N == 1),
        "missed_refusal <= 0.1": (label_N > 0, ~refused_N),
        "missed_refusal[safety + incomplete] <= 0.1": (np.isin(label_N, [1, 3]), ~refused_N),
        "wrong_category[humanizing] <= 0.1": (label_N == 2, refused_N & (choice_N != 2)),
        "refusal_rate <= 0.1": (everyone_N, refused_N),
        "refusal_rate[incomplete] <= 0.1": (everyone_N, choice_N == 3),
    }
    for text, (among_N, wrong_N) in in_words.items():
        if among_N.any():
            loss = losses_of([parse_goal(text)], template, grouped, 0)[0]
            expected = Rate(hits=int((among_N & wrong_N).sum()), of=int(among_N.sum()))
            assert loss.rate(refused_N, everyone_N) == expected


def test_the_thresholds_a_goal_depends_on_do_not_depend_on_the_rows():
    grouped = grouped_scores(
        policy(3), labelled(log_softmax([[0, 5, 1, 1], [0, 5, 1, 1]]), [0, 2]), shared=False
    )
    found = {
        text: losses_of([parse_goal(text)], policy(3), grouped, 0)[0].groups(grouped)
        for text in (
            "false_refusal <= 0.1",
            "false_refusal[safety] <= 0.1",
            "wrong_category[humanizing] <= 0.1",
        )
    }
    assert list(found.values()) == [[0, 1, 2], [0], [0, 2]]


def test_without_rows_nothing_is_known():
    goal = FalseRefusal(text="false_refusal <= 0.1", level=0.1)
    nobody_N = np.zeros(45, dtype=bool)
    nothing = evidence(goal, count_rows(nobody_N, None, None, seed=0), nobody_N, 0.05)
    assert (nothing.p_value, nothing.upper) == (1.0, 1.0)
    rows = count_rows(~nobody_N, None, None, seed=0)
    assert evidence(goal, rows, nobody_N, 0.05).p_value == pytest.approx(0.9**45)
