from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from demur.core.goals.parse import parse_goals
from demur.core.threshold import NEVER
from demur.stats.thresholds.losses import board_of, losses_of
from demur.stats.thresholds.worth import aim_of, best_within
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
    board = board_of(policy(2), labelled_rows, shared=False)
    aim = aim_of(parse_goals(text)[0], board, ())
    low, high = (0.2, 0.3), (0.7, NEVER)
    found = best_within(board, aim, low, high)
    assert all(a <= t <= b for a, t, b in zip(low, found, high, strict=True))
    values = np.exp(board.logq_N)
    choices = [
        [t for t in (*values * (1 - 1e-6), a, b) if a <= t <= b]
        for a, b in zip(low, high, strict=True)
    ]
    most = max(aim.value(board.refused(t)) for t in product(*choices))
    assert aim.value(board.refused(found)) == pytest.approx(most, abs=1e-9)


def test_without_an_optimum_the_goals_say_what_is_preferred():
    board = board_of(
        policy(2), labelled(log_softmax([[0, 1, 2], [2, 1, 0], [0, 3, 1]]), [0, 1, 2]), shared=False
    )
    catch = aim_of(
        None, board, losses_of(parse_goals("false_refusal <= 0.1; missed_refusal <= 0.1"), board, 0)
    )
    spare = aim_of(None, board, losses_of(parse_goals("missed_refusal <= 0.1"), board, 0))
    assert catch.value(np.array([True, True, False])) > catch.value(np.array([False, False, False]))
    assert spare.value(np.array([True, True, False])) < spare.value(np.array([False, False, False]))


def test_costs_weigh_each_row_by_its_category_and_by_the_token_it_gets():
    board = board_of(policy(2), labelled(log_softmax([[0, 2, 1]] * 3), [0, 1, 2]), shared=False)
    aim = aim_of(parse_goals("cost: false=3 missed=2 missed[safety]=7 wrong=0.5")[0], board, ())
    assert aim.worth_N.tolist() == [-3.0, 7.0, 1.5]


def test_the_best_number_of_steps_is_the_first_of_the_best_within_its_limits():
    board = board_of(policy(1), labelled(log_softmax([[0, 1]] * 4), [1, 0, 1, 0]), shared=False)
    aim = aim_of(parse_goals("youden max")[0], board, ())
    first_N = np.array([1, 2, 3, 4])
    assert [aim.best_step(first_N, *limits) for limits in ((0, 4), (0, 2), (2, 2), (2, 4))] == [
        1,
        1,
        2,
        3,
    ]
    assert aim.in_vain(np.array([False, True, False, False]))
    assert not aim.in_vain(np.array([True, False, False, False]))
