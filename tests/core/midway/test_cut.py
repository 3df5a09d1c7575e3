"""Where the text of a stopped answer is cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demur.core.midway.cut import sentence_end, sentence_ends


@pytest.mark.parametrize(
    ("kept", "dropped"),
    [
        ("First one.", " Second one is"),
        ("It ends.", ""),
        ("", "No end here"),
        ("Yes! No?", " Perh"),
        ('He said "Stop."', " And then"),
        ("(See above.)", " Next"),
        ("**Bold.**", " Next"),
        # full stops that end no sentence
        ("See Dr. Smith.", " He"),
        ("", "See Dr. "),
        ("Use e.g. this.", " And"),
        ("U.S. Army.", " It"),
        ("", "Pi is 3."),
        ("", "It costs 3.14 or 2."),
        ("It was 1990.", " Then we"),
        ("So did I.", " Then"),
        ("", "well... maybe not"),
        ("", "a.b.c and www.x"),
        ("1. Mix it", "\n2. Po"),
        # lines
        ("Title", "\n\nThis is"),
        ("* one thing\n* two things", "\n* thr"),
        # scripts with full stops of their own
        ("\u4f60\u597d\u3002", "\u8fd9\u662f\u7b2c"),
        ("\u8fd9\u662f\uff01\u201d", "\u7b2c"),
        ("\u0928\u092e\u0938\u094d\u0924\u0947\u0964", " \u092f\u0939"),
        (
            "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35 \u0e04\u0e23\u0e31\u0e1a",
            " \u0e19\u0e31\u0e48\u0e19",
        ),
        # code
        ("Call `a. b. c` now.", " Then `x. Y"),
        ("Run:\n```python\nx = 1\n```\nIt prints.", " Then"),
        ("Run:", "\n```python\nx = os.path. Join\ny ="),
    ],
)
def test_it_is_cut_behind_the_last_whole_sentence(kept, dropped):
    assert sentence_end(kept + dropped, 0) == len(kept)


def test_in_a_block_of_code_that_was_sent_only_lines_end():
    text = "Run:\n```python\nx = 1. And\ny = 2\nz ="
    start = text.index("x")
    assert text[start : sentence_end(text, start)] == "x = 1. And\ny = 2"


def test_what_was_sent_stays_sent_whether_or_not_a_sentence_ended_there():
    text = "First one. Second one is long"
    assert sentence_end(text, 15) == 15
    assert sentence_end(text, 10) == 10
    assert sentence_end(text, 4) == 10
    # an abbreviation whose letters were sent is one still
    assert sentence_end("Ask Dr. Smith", 6) == 6


@given(st.text(alphabet="aA.!?`\n \u3002\"'1*", max_size=60), st.integers(0, 60))
def test_the_cut_lies_in_the_text_and_a_later_start_never_cuts_earlier(text, start):
    start = min(start, len(text))
    end = sentence_end(text, start)
    assert start <= end <= len(text)
    assert sentence_end(text, end) == end


def test_every_whole_sentence_of_a_text_ends_where_an_answer_would_be_cut():
    text = "Ask Dr. Smith.\nHe knows: 3.5 of it! Go"
    ends = sentence_ends(text)
    first = "Ask Dr. Smith."
    assert [text[:end] for end in ends] == [first, f"{first}\nHe knows: 3.5 of it!"]
    # the last one is the whole text
    assert sentence_ends("One. Two.") == [4]
    assert sentence_ends("\n\nNo end") == []


@given(st.text(alphabet="aA.!?\n \u3002\"'1*", max_size=60))
def test_the_last_of_the_ends_is_where_an_answer_would_be_cut(text):
    ends = sentence_ends(text)
    cut = sentence_end(text, 0)
    assert ends == sorted(set(ends))
    assert not text[cut:].strip() or not text[:cut].strip() or ends[-1] == cut
