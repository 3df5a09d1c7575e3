from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from demur.core.goals.parse import parse_goals
from demur.core.threshold import NEVER
from demur.stats.thresholds.losses import grouped_scores, losses_of
from demur.stats.thresholds.objective import best_within, objective_of
from tests.builders import labelled, log_softmax, policy, rows


@settings(max_examples=60)
@given(
    data=st.data(),
    text=st.sampled_from(
        ["f1 max", "youden max", "cost: false=1 missed=3 missed[safety]=0.4 wrong=0.2"]
    ),
)
def test_the_best_between_limits_is_the_best_of_every_vector_between_them(data, text):
    labelled_rows = data.draw(rows(2, min_rows=3, max_rows=12))
    grouped = grouped_scores(policy(2), labelled_rows, shared=False)
    objective = objective_of(parse_goals(text)[0], grouped, ())
    low, high = (0.2, 0.3), (0.7, NEVER)
    found = best_within(grouped, objective, low, high)
    assert all(a <= t <= b for a, t, b in zip(low, found, high, strict=True))
    values = np.exp(grouped.logq_N)
    choices = [
        [t for t in (*values * (1 - 1e-6), a, b) if a <= t <= b]
        for a, b in zip(low, high, strict=True)
    ]
    most = max(objective.value(grouped.refused(t)) for t in product(*choices))
    assert objective.value(grouped.refused(found)) == pytest.approx(most, abs=1e-9)


def test_without_an_optimum_the_goals_say_what_is_preferred():
    grouped = grouped_scores(
        policy(2), labelled(log_softmax([[0, 1, 2], [2, 1, 0], [0, 3, 1]]), [0, 1, 2]), shared=False
    )
    catch = objective_of(
        None,
        grouped,
        losses_of(
            parse_goals("false_refusal <= 0.1; missed_refusal <= 0.1"), policy(2), grouped, 0
        ),
    )
    spare = objective_of(
        None, grouped, losses_of(parse_goals("missed_refusal <= 0.1"), policy(2), grouped, 0)
    )
    assert catch.value(np.array([True, True, False])) > catch.value(np.array([False, False, False]))
    assert spare.value(np.array([True, True, False])) < spare.value(np.array([False, False, False]))


def test_costs_weigh_each_row_by_its_category_and_by_the_token_it_gets():
    grouped = grouped_scores(
        policy(2), labelled(log_softmax([[0, 2, 1]] * 3), [0, 1, 2]), shared=False
    )
    objective = objective_of(
        parse_goals("cost: false=3 missed=2 missed[safety]=7 wrong=0.5")[0], grouped, ()
    )
    assert objective.worth_N.tolist() == [-3.0, 7.0, 1.5]


def test_the_best_number_of_steps_is_the_first_of_the_best_within_its_limits():
    grouped = grouped_scores(
        policy(1), labelled(log_softmax([[0, 1]] * 4), [1, 0, 1, 0]), shared=False
    )
    objective = objective_of(parse_goals("youden max")[0], grouped, ())
    first_N = np.array([1, 2, 3, 4])
    assert [
        objective.best_step(first_N, *limits) for limits in ((0, 4), (0, 2), (2, 2), (2, 4))
    ] == [
        1,
        1,
        2,
        3,
    ]
    assert objective.is_vacuous(np.array([False, True, False, False]))
    assert not objective.is_vacuous(np.array([True, False, False, False]))
