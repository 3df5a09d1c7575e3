"""Folding and likeness in scripts whose words need marks, or have no space between them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demur.core.example import Example, Message, fold, fold_without_marks
from demur.core.rows.similarity import near_copies, word_set
from demur.core.training.seen import Seen, _digest, _word_digests, seen_of, seen_prompts


def asked(text):
    return (Message(role="user", content=text),)


def row(text):
    return Example(id="a", source="s", messages=asked(text), kind="benign")


@pytest.mark.parametrize(
    ("text", "folded"),
    [
        ("मैं क्या करूँ?", "मैं क्या करूँ"),
        ("நான் என்ன செய்வது?", "நான் என்ன செய்வது"),
        ("ฉันจะไปที่ไหน!", "ฉันจะไปที่ไหน"),
        ("Café, cafe\u0301!", "café café"),
        ("x\u0332y\u034f z", "xy z"),  # marks that make no other letter
        ("كِتَاب", "كتاب"),
        ("क्\u200dष", "क्ष"),
        ("I \u2764\ufe0f it", "i it"),
        ("It's O.K.", "it s o k"),
    ],
)
def test_vowel_signs_stay_and_accents_apart_do_not_part_a_word(text, folded):
    assert fold(text) == folded


def test_words_that_differ_in_a_vowel_sign_are_two():
    assert fold("दिन") != fold("दान")
    assert fold_without_marks("दिन") == fold_without_marks("दान")  # as it was


@given(text=st.text(alphabet=st.characters(max_codepoint=0xFF), max_size=40))
def test_latin_texts_are_folded_as_ever(text):
    assert fold(text) == fold_without_marks(text)


NEAR = [
    (
        "東京で一番おいしいラーメン屋はどこですか教えてください",
        "東京で一番おいしいラーメン屋はどこですか教えて下さい",
    ),
    ("请告诉我如何在家里安全地储存清洁用品和药品", "请告诉我如何在家里安全地储存清洁用品和药物"),
    ("ฉันจะทำอาหารเย็นง่ายๆที่บ้านได้อย่างไรบ้าง", "ฉันจะทำอาหารเย็นง่ายๆที่บ้านได้อย่างไรบ้างคะ"),
]


@pytest.mark.parametrize("pair", NEAR)
def test_near_copies_are_found_without_spaces(pair):
    assert [set(link) for link in near_copies([fold(t) for t in pair])] == [{0, 1}]


def test_other_questions_are_no_near_copies():
    assert not list(
        near_copies(
            [
                fold("東京で一番おいしいラーメン屋はどこですか"),
                fold("大阪で一番安いホテルを探しています"),
            ]
        )
    )


def test_words_with_spaces_are_words():
    assert word_set("how do i bake bread") == {"how", "do", "i", "bake", "bread"}
    assert word_set("pythonで 何 が できる") == {"python", "で", "何", "が", "でき", "きる"}


@pytest.mark.parametrize(
    "text",
    [("मैं घर पर रोटी कैसे बनाऊँ बताइए"), *(pair[0] for pair in NEAR), "How do I bake bread at home?"],
)
def test_a_record_of_an_earlier_version_is_still_read(text):
    key = fold_without_marks(text)
    words = _word_digests(frozenset(key.split()))
    assert words is not None
    before = Seen(prompts=frozenset({_digest(key)}))
    assert seen_prompts(before, [asked(text)]) == {0: "prompt"}
    assert seen_prompts(Seen(words=frozenset({words})), [asked(text)]) == (
        {0: "near copy"} if len(words) > 3 else {}
    )


@pytest.mark.parametrize("pair", NEAR)
def test_near_copies_of_trained_rows_are_seen(pair):
    assert seen_prompts(seen_of([row(pair[0])]), [asked(pair[1]), asked("何か")]) == {
        0: "near copy"
    }
