from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from demur.core.goals.parse import parse_goals
from demur.core.threshold import ALWAYS, NEVER
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


def test_thresholds_that_refuse_nothing_of_worth_are_vacuous():
    grouped = grouped_scores(
        policy(1), labelled(log_softmax([[0, 1]] * 4), [1, 0, 1, 0]), shared=False
    )
    objective = objective_of(parse_goals("youden max")[0], grouped, ())
    assert objective.is_vacuous(np.array([False, True, False, False]))
    assert not objective.is_vacuous(np.array([True, False, False, False]))


@pytest.mark.parametrize(
    ("counts", "refused", "f1"), [([1, 1, 1], 3, 0.8), ([40, 1, 1], 0, 4 / 44)]
)
def test_a_row_counts_in_an_optimum_as_often_as_it_was_asked(counts, refused, f1):
    """The likeliest row ought to be answered: asked 40 times, it is not worth the two others."""
    rows = labelled(log_softmax([[0, 3], [0, 2], [0, 1]]), [0, 1, 1])
    counted = replace(rows, count_N=np.array(counts))
    grouped = grouped_scores(policy(1), counted, shared=False)
    cost, f_beta = (
        objective_of(parse_goals(text)[0], grouped, ())
        for text in ("cost: false=1 missed=1", "f1 max")
    )
    best = best_within(grouped, cost, [ALWAYS], [NEVER])
    assert int(grouped.refused(best).sum()) == refused
    everyone_N = np.ones(3, dtype=bool)
    assert f_beta.value(everyone_N) == pytest.approx(f1)
    assert grouped.refused(best_within(grouped, f_beta, [ALWAYS], [NEVER])).all()
