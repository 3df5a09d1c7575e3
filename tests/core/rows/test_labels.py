"""What tells whether a row is to be refused, and what happens where nothing does."""

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demur.base.errors import ConfigError, DataError
from demur.core.rows.labels import (
    LabelRule,
    RowLabel,
    UnknownLabel,
    describe_unknown_label,
    label_row,
    propose_meaning,
    toml_string,
)
from demur.core.rows.shapes import as_text

LEGAL = {"Law": "legal"}
YES = {"true": "refuse"}
MAP = {
    "harmful": "refuse",
    "Legal advice": "legal",
    "ok": "respond",
    "alike": "contrast",
    "junk": "skip",
    "0": "respond",
}


def ought(row, **rule):
    found = label_row(row, LabelRule(**rule))
    return None if found is None else (found.kind, found.category)


@pytest.mark.parametrize(
    ("row", "rule", "found"),
    [
        ({"kind": "refusal", "category": "safety"}, {}, ("refusal", "safety")),
        # the example itself says that a category is missing
        ({"kind": "refusal"}, {}, ("refusal", None)),
        ({"kind": "contrast", "category": "safety"}, {}, ("contrast", "safety")),
        ({"kind": "benign", "category": ""}, {}, ("benign", None)),
        ({"label": "refuse", "category": "safety"}, {}, ("refusal", "safety")),
        ({"label": "Refusal"}, {}, ("refusal", "refuse")),  # the category of the taxonomy `single`
        ({"label": "respond"}, {}, ("benign", None)),
        ({"label": "respond", "category": "safety"}, {}, ("contrast", "safety")),
        ({"label": "benign", "category": "safety"}, {}, ("benign", "safety")),
        ({"expected": "respond", "label": "7"}, {}, ("benign", None)),
        ({"kind": "contrast", "expected": "respond", "label": "7"}, {}, ("contrast", None)),
        ({"category": "safety"}, {"rows_kind": "refusal"}, ("refusal", "safety")),
        ({}, {"rows_kind": "refusal", "category": "safety"}, ("refusal", "safety")),
        ({"label": "7"}, {"rows_kind": "contrast"}, ("contrast", None)),
        ({"expected": "respond"}, {"rows_kind": "contrast"}, ("contrast", None)),
        ({"label": "harmful", "category": "safety"}, {"label_map": MAP}, ("refusal", "safety")),
        ({"label": "harmful"}, {"label_map": MAP}, ("refusal", "refuse")),
        ({"label": "legal ADVICE"}, {"label_map": MAP}, ("refusal", "legal")),
        ({"label": "ok"}, {"label_map": MAP}, ("benign", None)),
        ({"label": 0}, {"label_map": MAP}, ("benign", None)),
        ({"label": 0.0}, {"label_map": MAP}, ("benign", None)),
        ({"label": "ok", "category": "safety"}, {"label_map": MAP}, ("contrast", "safety")),
        ({"label": "alike", "category": "safety"}, {"label_map": MAP}, ("contrast", "safety")),
        ({"label": "junk"}, {"label_map": MAP}, None),
        ({"category": "Legal advice"}, {"label_map": MAP}, ("refusal", "legal")),
        ({"category": ("Legal "
            "advice")}, {"label_map": MAP | {"ok": "skip", "alike": "skip", "0": "skip"},
                                        "rows_kind": "refusal"}, ("refusal", "legal")),
        ({"kind": "refusal", "category": "Law"}, {"categories": LEGAL}, ("refusal", "legal")),
        (
            {"label": "ok", "category": "Law"},
            {"label_map": MAP, "categories": LEGAL},
            ("contrast", "legal"),
        ),
        ({"y": True}, {"columns": {"label": "y"}, "label_map": YES}, ("refusal", "refuse")),
        ({"y": None}, {"columns": {"label": "y"}, "label_map": {"": "respond"}}, ("benign", None)),
        ({"kind": "junk", "label": "refuse"}, {"columns": {"kind": ""}}, ("refusal", "refuse")),
    ],
)  # fmt: skip
def test_a_row_is_told_by_its_own_words_its_map_or_its_source(row, rule, found):
    assert ought(row, **rule) == found


@pytest.mark.parametrize(
    ("row", "rule", "column"),
    [
        ({"label": "harmful"}, {}, "label"),
        ({"label": True}, {}, "label"),
        ({"kind": "rude"}, {}, "kind"),
        ({"kind": "benign", "expected": "maybe"}, {}, "expected"),
        ({"label": "other"}, {"label_map": MAP}, "label"),
        ({"label": None}, {"label_map": MAP}, "label"),
        ({"y": "other"}, {"label_map": MAP, "columns": {"label": "y"}}, "y"),
    ],
)
def test_a_value_that_nothing_knows_is_never_guessed(row, rule, column):
    with pytest.raises(UnknownLabel) as e:
        ought(row, **rule)
    assert e.value.column == column


@pytest.mark.parametrize(
    ("row", "rule", "says"),
    [
        ({"prompt": "a"}, {}, "nothing tells whether to refuse"),
        ({"category": "safety"}, {}, "nothing tells whether to refuse"),
        ({"kind": "benign", "expected": "refuse"}, {}, "of kind 'benign' but expected 'refuse'"),
        ({"kind": "benign"}, {"rows_kind": "refusal"}, "of kind 'benign' but rows_kind 'refusal'"),
        (
            {"label": "respond"},
            {"rows_kind": "refusal"},
            "of label 'benign' but rows_kind 'refusal'",
        ),
        ({"a": 1}, {"label_map": MAP}, "there is no column 'label' for label_map"),
        ({"a": 1}, {"columns": {"kind": "b"}}, "there is no column 'b' for kind"),
    ],
)
def test_rows_that_tell_nothing_or_two_things_are_errors(row, rule, says):
    with pytest.raises(DataError, match=says) as e:
        ought(row, **rule)
    assert e.value.hint


def test_rules_that_mean_nothing_are_refused():
    with pytest.raises(ConfigError, match="'promt' is not a column that demur reads"):
        LabelRule(columns={"promt": "a"})
    with pytest.raises(ConfigError, match="every row is to be refused"):
        LabelRule(rows_kind="refusal", label_map={"a": "respond"})


@given(
    st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="\0"))
        | st.integers()
        | st.booleans()
        | st.none(),
        min_size=1,
    )
)
def test_the_map_that_an_error_proposes_is_toml_that_knows_every_value(values):
    _, paste = describe_unknown_label("label", values)
    mapping = tomllib.loads(paste[paste.index("label_map") :])["label_map"]
    distinct = {as_text(v) or "" for v in values}
    assert set(mapping) == distinct if len(distinct) <= 12 else set(mapping) < distinct
    for value in mapping:
        found = label_row({"label": value}, LabelRule(label_map=mapping))
        assert found is None or isinstance(found, RowLabel)


@given(st.text(st.characters(codec="utf-8")))
def test_any_text_can_be_written_as_a_key_and_a_value(text):
    assert tomllib.loads(f"{toml_string(text)} = {toml_string(text)}") == {text: text}


def test_words_of_others_are_proposed_with_care():
    words = (
        "Requests with safety concerns",
        "unsupported",
        "harmful",
        "un-safe",
        "Not_Known",
        "safe",
        "refusal",
        "benign",
    )
    assert [propose_meaning(w) for w in words] == [
        "safety", "unsupported", "refuse", "skip", "skip", "respond", "refuse", "respond",
    ]  # fmt: skip
