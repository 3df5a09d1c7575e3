import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demur.core.errors import GoalError
from demur.core.goal import Goal, parse_goal


@pytest.mark.parametrize(
    ("text", "goal"),
    [
        ("natural", {"kind": "natural"}),
        ("f1 max", {"kind": "fbeta", "beta": 1.0}),
        (" f0.5\t max ", {"kind": "fbeta", "beta": 0.5}),
        ("youden max", {"kind": "youden"}),
        ("refusal_rate = 0.10", {"kind": "refusal_rate", "level": 0.1}),
        ("refusal_rate=1", {"kind": "refusal_rate", "level": 1.0}),
        ("refusal_rate = 0.7%", {"kind": "refusal_rate", "level": 0.007}),
        ("refusal_rate[humanizing] = 10 %", {"kind": "refusal_rate", "level": 0.1, "category": "humanizing"}),
        ("refusal_rate[two words]=.5", {"kind": "refusal_rate", "level": 0.5, "category": "two words"}),
        ("cost: false=1 missed=5.5", {"kind": "cost", "cost_false": 1.0, "cost_missed": 5.5}),
        ("false_refusal <= 5e-2", {"kind": "false_refusal", "level": 0.05}),
    ],
)
def test_goals_read_as_they_look(text, goal):
    assert parse_goal(text) == Goal(text=" ".join(text.split()), **goal)


@pytest.mark.parametrize(
    ("text", "caret", "expected", "hint"),
    [
        ("", 0, "a goal", "goals read like"),
        ("nautral", 0, "a goal", "did you mean 'natural'"),
        ("F1 max", 0, "a goal", "did you mean 'f1'"),
        ("refusal rate = 0.1", 0, "a goal", "did you mean 'refusal_rate'"),
        ("f1", 2, "'max'", ""),
        ("f1 mx", 3, "'max'", "did you mean 'max'"),
        ("f0 max", 0, "beta above 0", ""),
        ("f1 max now", 7, "nothing more", ""),
        ("youden", 6, "'max'", ""),
        ("false_refusal < 0.05", 14, "'<='", "did you mean '<='"),
        ("false_refusal <= 0", 17, "strictly between 0 and 1", ""),
        ("false_refusal <= 100%", 17, "strictly between 0 and 1", ""),
        ("refusal_rate = 0,05", 16, "nothing more", ""),
        ("refusal_rate = -1", 15, "from 0 to 1", ""),
        ("refusal_rate = 10", 15, "from 0 to 1", ""),
        ("refusal_rate[safety = .1", 12, "closed by ']'", ""),
        ("refusal_rate[ ] = .1", 12, "between the brackets", ""),
        ("refusal_rate(safety) = .1", 12, "'='", ""),
        ("cost false=1 missed=2", 5, "':'", ""),
        ("cost: false=1 mised=2", 14, "'missed'", "did you mean 'missed'"),
        ("cost: false=0 missed=2", 12, "a cost above 0", ""),
        ("cost:\tfalse=1  missed=", 22, "a cost above 0", ""),
    ],
)
def test_an_unreadable_goal_points_at_the_offending_character(text, caret, expected, hint):
    with pytest.raises(GoalError) as raised:
        parse_goal(text)
    _, shown, pointer = raised.value.message.split("\n")
    assert shown == "    " + text.replace("\t", " ")
    assert pointer.index("^") - 4 == caret
    assert expected in pointer
    assert hint in raised.value.hint


@given(st.text(max_size=40) | st.text("f1max cost:=.[]%<refusal_rate5e+-", max_size=40))
def test_any_text_is_a_goal_or_a_goal_error_inside_the_text(text):
    try:
        goal = parse_goal(text)
    except GoalError as error:
        pointer = error.message.rsplit("\n", 1)[1]
        found = 0 <= pointer.index("^") - 4 <= len(text)
    else:
        found = goal.text == " ".join(text.split())
    assert found


def test_every_example_in_the_hint_is_a_goal():
    with pytest.raises(GoalError) as raised:
        parse_goal("?")
    examples = re.sub(".*like: ", "", raised.value.hint).split("; ")
    assert len({parse_goal(e).kind for e in examples}) == 10
