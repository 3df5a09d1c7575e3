import pytest

from demur.core.training.summary import (
    language_line,
    training_warnings,
    turn_back_line,
    validation_line,
)

GOOD = {
    "validation_loss": 0.21,
    "validation_leftover": 0.004,
    "validation_rows": 1234,
    "best_step": 150,
    "language_change": 0.04,
    "language_tokens": 2500,
    "language_rows": 64,
}


def test_the_lines_hold_the_figures():
    assert validation_line(GOOD) == (
        "validation: log loss 0.210 and leftover mass 0.0040 on 1,234 rows, at step 150"
    )
    assert language_line(GOOD) == (
        "language: +0.040 nats a token against the base model, on 2,500 tokens of 64 ordinary "
        "replies"
    )
    assert training_warnings(GOOD) == ()


def test_what_was_not_measured_is_not_said():
    assert (validation_line({}), language_line({}), training_warnings({})) == (None, None, ())


@pytest.mark.parametrize(
    ("figure", "words"),
    [({"language_change": 0.11}, "reply_share"), ({"validation_leftover": 0.02}, "control_weight")],
)
def test_a_figure_above_its_bound_is_warned_of_with_what_to_do(figure, words):
    (text,) = training_warnings(GOOD | figure)
    assert words in text


def test_rows_that_turn_back_are_counted_and_what_was_harvested_for_them():
    rows = {"turn_back_rows": 300, "transition_rows": 1310}
    assert turn_back_line(rows) == "turning back: 300 turn-back rows and 1,310 transition rows"
    harvested = turn_back_line(rows | {"harvested": 310, "harvest_left_out": 20})
    assert harvested == (
        "turning back: 300 turn-back rows and 1,310 transition rows, from 310 harvested answers "
        "(20 more declined in words, or said nothing, and were left out)"
    )
    assert turn_back_line({}) is None
