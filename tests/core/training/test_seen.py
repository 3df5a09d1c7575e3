"""What a model has seen, told from digests alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demur.base.errors import DataError
from demur.core.example import Example, Message, fold
from demur.core.rows.similarity import near_copies
from demur.core.training.seen import (
    Seen,
    merge_records,
    require_unseen,
    seen_ids,
    seen_of,
    seen_prompts,
    seen_rows,
    without_missing,
)

TEXT = "How do I bake a loaf of good bread at home?"


def row(text, name="r", group=None):
    return Example(
        id=name,
        source="s",
        messages=(Message(role="user", content=text),),
        kind="benign",
        group=group,
    )


@pytest.mark.parametrize(
    ("text", "how"),
    [
        (TEXT, "prompt"),
        (TEXT.upper(), "prompt"),
        (f"  {TEXT.replace(' ', '   ')}!!", "prompt"),
        (TEXT.replace("good", "fine"), "near copy"),
        ("at home, how do I bake a loaf of good bread", "near copy"),
        ("How do I bake a cake?", None),
        ("Hello", None),
    ],
)
def test_a_prompt_is_recognised_up_to_case_space_order_and_a_word(text, how):
    found = seen_rows(seen_of([row(TEXT)]), [row(text, "asked")])
    assert found.how.get("asked") == how
    assert bool(found) == (how is not None)


def test_a_row_of_a_group_that_was_trained_on_is_seen_whatever_it_says():
    seen = seen_of([row(TEXT, group="a:1")])
    assert seen_rows(seen, [row("Something else", group="a:1")]).how == {"r": "group"}
    assert not seen_rows(seen, [row("Something else", group="b:1")])


def test_the_record_holds_no_word_of_the_text():
    assert "bread" not in repr(seen_of([row(TEXT, "loaf-7", "kitchen:1")]))
    assert "loaf" not in repr(seen_of([row(TEXT, "loaf-7", "kitchen:1")]))


words = st.lists(st.sampled_from("abcdefghijk"), min_size=1, max_size=9).map(" ".join)


@given(st.lists(words, max_size=8), st.lists(words, max_size=8))
def test_digests_find_exactly_the_rows_that_the_splitter_would_keep_together(known, asked):
    seen = seen_of([row(text, f"k{n}") for n, text in enumerate(known)])
    found = set(seen_prompts(seen, [row(text).prompt for text in asked]))
    both = [fold(text) for text in (*known, *asked)]

    def together_in_data(n):
        pair = {both[n]} & set(both[: len(known)])
        linked = any(list(near_copies([both[k], both[n]])) for k in range(len(known)))
        return bool(pair) or linked

    assert found == {n - len(known) for n in range(len(known), len(both)) if together_in_data(n)}


@given(st.lists(words, max_size=6), st.lists(words, max_size=6))
def test_a_merged_record_knows_what_either_knew(left, right):
    parts = [
        seen_of([row(text, f"{name}{n}") for n, text in enumerate(some)])
        for name, some in (("l", left), ("r", right))
    ]
    merged = merge_records(parts)
    prompts = [row(text).prompt for text in (*left, *right)]
    assert len(seen_prompts(merged, prompts)) == len(prompts)
    assert seen_ids(merged, [f"l{n}" for n in range(len(left))]) == [
        f"l{n}" for n in range(len(left))
    ]


def test_the_error_names_rows_and_how_they_were_seen():
    rows = [row(TEXT, "first"), row("An unseen one, quite different from all", "second")]
    with pytest.raises(DataError, match=r"1 of 2 rows \(1 by prompt\), first 'first'") as error:
        require_unseen(seen_of([row(TEXT)]), rows, "the calibrate split")
    assert "demur train" in error.value.hint


def test_a_lost_record_is_an_error_until_somebody_names_the_rows():
    lost = Seen(missing=("old/model",))
    with pytest.raises(DataError, match="the rows that old/model was trained on are unknown"):
        require_unseen(lost, [row(TEXT)], "the calibrate split")
    require_unseen(without_missing(lost), [row(TEXT)], "the calibrate split")
    require_unseen(Seen(unknown=("a base",)), [row(TEXT)], "the calibrate split")
