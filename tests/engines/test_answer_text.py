"""Answers as text while they are written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

from demur.engines.answer_text import AnswerText, Detokenizer
from tests.engines.checkpoints import make_tokenizer

TOKENIZER = make_tokenizer()
BYTES = {TOKENIZER.decode([i]): i for i in range(len(TOKENIZER))}


def decode(ids):
    return TOKENIZER.decode(ids, skip_special_tokens=True)


def ids_of(text):
    return TOKENIZER(text, add_special_tokens=False)["input_ids"]


def byte_fallback():
    """A decoder of the other family: words with a leading space, single bytes for what is no
    word.
    """
    words = ["▁Hello", "▁sea", "s", *(f"<0x{b:02X}>" for b in range(256))]
    tokenizer = Tokenizer(models.BPE({w: n for n, w in enumerate(words)}, [], byte_fallback=True))
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return tokenizer, words


@given(st.text(max_size=30))
def test_whole_texts_come_out_unchanged_and_never_with_half_a_character(text):
    whole = Detokenizer(decode)
    pieces = [whole.push(i) for i in ids_of(text)]
    assert all(text.startswith("".join(pieces[:n])) for n in range(len(pieces) + 1))
    assert "".join(pieces) + whole.end() == decode(ids_of(text)).rstrip("\ufffd")


@given(st.lists(st.integers(0, len(TOKENIZER) - 1), max_size=40))
def test_any_ids_whatever_come_out_as_they_decode_together(ids):
    whole = Detokenizer(decode)
    shown = "".join(whole.push(i) for i in ids)
    assert decode(ids).startswith(shown)
    assert (shown + whole.end()).rstrip("\ufffd") == decode(ids).rstrip("\ufffd")


def test_a_character_of_four_bytes_is_shown_with_its_last_byte():
    whole = Detokenizer(decode)
    assert [whole.push(i) for i in ids_of("a😀b")] == ["a", "", "", "", "😀", "b"]


def test_an_answer_cut_within_a_character_ends_before_it():
    whole = Detokenizer(decode)
    assert [whole.push(i) for i in ids_of("a😀")[:-1]] == ["a", "", "", ""]
    assert whole.end() == ""


@given(st.text(alphabet="é€😀s", max_size=8))
def test_byte_fallback_and_leading_spaces_are_handled(text):
    tokenizer, words = byte_fallback()
    ids = [0, 1, *(words.index(f"<0x{b:02X}>") for b in text.encode()), 0]
    whole = Detokenizer(tokenizer.decode)
    assert (
        "".join(whole.push(i) for i in ids) + whole.end()
        == f"Hello sea{text} Hello"
        == tokenizer.decode(ids)
    )


def test_special_tokens_are_never_shown():
    whole = Detokenizer(decode)
    special = TOKENIZER.convert_tokens_to_ids("<|im_end|>")
    assert [whole.push(i) for i in [special, *ids_of("a"), special, *ids_of("b")]] == [
        "",
        "a",
        "",
        "b",
    ]


@pytest.mark.parametrize("stop", ["at is", " the cap", "W", "France?", "?", "nowhere"])
def test_a_stop_string_across_tokens_cuts_the_answer(stop):
    text = "What is the capital of France?"
    answer, shown = AnswerText(decode, [stop]), ""
    for token_id in ids_of(text):
        shown += answer.push(token_id)
        assert text.partition(stop)[0].startswith(shown)
    assert shown + answer.end() == text.partition(stop)[0]
    assert answer.stopped == (stop in text)
