"""How many requests a row stands for, and which session they came in."""

import math

import pytest

from demur.base.errors import DataError
from demur.core.rows.labels import LabelRule, read_count, read_session
from demur.core.rows.requests import MOST_REQUESTS, joint_session


@pytest.mark.parametrize("written", [3, 3.0, "3", "3.0", " 3 ", "003"], ids=repr)
def test_a_count_may_be_written_as_tables_write_numbers(written):
    assert read_count({"count": written}, LabelRule()) == 3
    assert read_count({"n": written}, LabelRule(columns={"count": "n"})) == 3


def test_a_row_without_the_column_is_one_request():
    assert read_count({"prompt": "Hi"}, LabelRule()) == 1
    assert read_count({"count": "often"}, LabelRule(columns={"count": ""})) == 1


@pytest.mark.parametrize(
    "written",
    [2.5, "2.5", 0, -1, "many", "1e3", "1_000", "٣", True, [3], math.inf, 10.0**30, 10**13],
    ids=repr,
)
def test_anything_else_names_column_and_value(written):
    with pytest.raises(DataError, match="is no number of requests") as e:
        read_count({"n": written}, LabelRule(columns={"count": "n"}))
    assert e.value.message.startswith(f"n: {written!r:.60}")
    assert f"{MOST_REQUESTS:,}" in e.value.hint


@pytest.mark.parametrize("written", ["", " ", None, math.nan], ids=repr)
def test_a_blank_count_is_no_guess(written):
    with pytest.raises(DataError, match="count: it is blank"):
        read_count({"count": written}, LabelRule())


def test_a_session_is_found_by_either_name_or_by_the_one_given():
    assert read_session({"session": 7.0, "conversation_id": "c"}, LabelRule()) == "7"
    assert read_session({"conversation_id": "c"}, LabelRule()) == "c"
    assert read_session({"thread": "t"}, LabelRule(columns={"session": "thread"})) == "t"
    assert read_session({"conversation_id": "c"}, LabelRule(columns={"session": ""})) is None
    assert read_session({"session": " "}, LabelRule()) is None
    with pytest.raises(DataError, match="no column 'thread' for session"):
        read_session({"session": "s"}, LabelRule(columns={"session": "thread"}))


def test_one_row_of_several_sessions_has_a_session_that_only_these_make():
    assert joint_session([None, None]) is None
    assert joint_session(["a", "a"]) == "a"
    assert joint_session(["a", "b"]) == joint_session(["b", "a", "b"]) != joint_session(["a", "c"])
