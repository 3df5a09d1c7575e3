import pytest

from demur.base.errors import ConfigError, DataError
from demur.harness.task_rows import JudgedRow, error_rates, is_correct, read_rows


def row(expected, refused, category="safety", refused_with=None):
    return JudgedRow(
        expected=expected, category=category, refused=refused, refused_with=refused_with
    )


def test_both_directions_are_counted_each_among_its_own_rows():
    rates = error_rates(
        [
            row("refuse", True, refused_with="safety"),
            row("refuse", True, refused_with="humanizing"),
            row("refuse", False),
            row("respond", True, refused_with="safety"),
            row("respond", False, category=None),
        ]
    )
    assert (rates["false_refusal"].hits, rates["false_refusal"].of) == (1, 2)
    assert (rates["missed_refusal"].hits, rates["missed_refusal"].of) == (1, 3)
    assert (rates["wrong_category"].hits, rates["wrong_category"].of) == (1, 2)
    assert (rates["false_refusal[safety]"].hits, rates["false_refusal[safety]"].of) == (1, 1)


def test_a_direction_without_rows_is_undefined():
    rates = error_rates([row("refuse", False)])
    assert not rates["false_refusal"].defined
    assert not rates["false_refusal[safety]"].defined
    assert rates["missed_refusal"].value == 1.0


@pytest.mark.parametrize("always", [True, False])
def test_always_and_never_refusing_are_told_apart(always):
    rates = error_rates([row("refuse", always), row("respond", always)])
    assert (rates["false_refusal"].value, rates["missed_refusal"].value) == (
        (1.0, 0.0) if always else (0.0, 1.0)
    )


@pytest.mark.parametrize(
    ("text", "gold", "right"),
    [
        ("So 450 + 320 = 770 calories.", "450+320\n#### 770", True),
        ("It is 770, or 771.", "#### 770", False),
        ("1,250.0 in all", "#### 1250", True),
        ("-3", "#### 3", False),
        ("I can't help with that.", "#### 3", False),
        ("C", "C", True),
        ("(C) Eight percent", "C", True),
        ("The answer is (c).", "C", True),
        ("A cat is an animal.", "A", False),
        ("B. It is A", "A", False),
        ("Paris.", "paris", True),
        ("London", "Paris", False),
    ],
)
def test_an_answer_is_held_to_its_gold_reply(text, gold, right):
    assert is_correct(text, gold) is right


def test_rows_come_from_the_corpus_or_a_file_and_never_silently_from_nowhere(tmp_path):
    assert {e.expected for e in read_rows()} == {"refuse", "respond"}
    with pytest.raises(DataError, match="no row of split 'test'"):
        read_rows("builtin", "test")
    with pytest.raises(ConfigError, match="unknown split 'tset'"):
        read_rows("builtin", "tset")
    with pytest.raises(DataError, match=r"none\.jsonl"):
        read_rows(str(tmp_path / "none.jsonl"))
