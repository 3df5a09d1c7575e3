"""Guesses about rows, and that no row whatever is a bug of ours."""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from demur.base.errors import DataError
from demur.core.rows.labels import COLUMN_NAMES, LabelRule, label_row
from demur.core.rows.shapes import LISTS, PROMPTS, REPLIES, read_conversation
from demur.sources.guess import category_name, guess_rows

KEYS = (
    *COLUMN_NAMES,
    *PROMPTS,
    *REPLIES,
    *(k for k, _ in LISTS),
    "chosen",
    "rejected",
    "instruction",
    "history",
    "q y",
)
TURN_KEYS = (
    "role",
    "from",
    "content",
    "value",
    "tool_calls",
    "function_call",
    "tool_call_id",
    "name",
    "refusal",
    "type",
)
WORDS = (
    "user",
    "assistant",
    "tool",
    "human",
    "gpt",
    "refusal",
    "safe",
    "0",
    "1",
    "text",
    "\ud800",
    "\0",
    "a b c d",
    "[",
)
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(WORDS)
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(TURN_KEYS), inner, max_size=4)
    ),
    max_leaves=12,
)
rows = st.dictionaries(st.sampled_from(KEYS), values, max_size=5)


@settings(max_examples=400, deadline=None)
@given(st.lists(rows, min_size=1, max_size=4))
def test_any_row_is_read_or_is_an_error_that_says_why(table):
    for row in table:
        with contextlib.suppress(DataError):
            assert all(m.content is not None for m in read_conversation(row).turns)
        with contextlib.suppress(DataError):
            label_row(row, LabelRule())
        with contextlib.suppress(DataError):
            label_row(row, LabelRule(label_map={"safe": "respond", "1": "refuse"}))
    found = guess_rows(table, "a.jsonl")
    assert sum(found.counts.values()) + found.skipped <= len(table)
    assert found.fault or found.counts


def test_a_name_of_a_category_is_made_of_a_value():
    assert [category_name(v) for v in ("Legal advice", "self_harm", "  A/B: c! ", "??")] == [
        "legal-advice", "self_harm", "a-b-c", "??",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("column", "values", "meanings"),
    [
        ("is_refused", (True, False), {"true": "refuse", "false": "respond"}),
        ("safe", ("yes", "no"), {"yes": "respond", "no": "refuse"}),
        ("harmful", (1.0, 0.0), {"1": "refuse", "0": "respond"}),
        ("verdict", ("unsafe", "safe"), {"unsafe": "refuse", "safe": "respond"}),
        ("topic", ("none", "Self harm"), {"none": "respond", "Self harm": "self-harm"}),
    ],
)
def test_columns_of_others_are_understood(column, values, meanings):
    table = [{"prompt": f"How do I row a boat {n}?", column: v} for n, v in enumerate(values * 3)]
    found = guess_rows(table, "a.jsonl")
    assert found.fault == ""
    assert dict(found.rule.label_map) == meanings
    assert {kind for kind, _ in found.counts} == {"refusal", "benign"}


def test_a_column_of_ones_and_zeros_whose_name_says_nothing_is_not_guessed():
    table = [{"prompt": f"How do I row a boat {n}?", "x": n % 2} for n in range(6)]
    assert "nothing tells" in guess_rows(table, "a.jsonl").fault
