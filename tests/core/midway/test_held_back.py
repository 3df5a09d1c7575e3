"""Tokens that a stream withholds."""

from hypothesis import given
from hypothesis import strategies as st

from demur.core.midway.held_back import HeldBack
from demur.core.serving import AnswerPart


def parts(*words):
    return [AnswerPart(text=word, tokens=1) for word in words]


def pushed(held, *made):
    return "".join(one.text for part in made for one in held.push(part))


@given(
    st.lists(st.tuples(st.text("ab. ", max_size=3), st.integers(0, 4)), max_size=20),
    st.integers(0, 12),
)
def test_the_newest_tokens_are_withheld_and_nothing_else_of_single_tokens(made, least):
    held, written, sent = HeldBack(least), 0, 0
    for text, tokens in made:
        written += tokens
        sent += sum(part.tokens for part in held.push(AnswerPart(text=text, tokens=tokens)))
        assert sent == held.sent <= max(0, written - least)
        if all(tokens <= 1 for _, tokens in made):
            assert sent == max(0, written - least)
    rest = held.push(AnswerPart(finish="stop"))
    assert sent + sum(part.tokens for part in rest) == written == held.sent


def test_the_text_of_an_answer_that_ends_is_whole():
    held = HeldBack(3)
    text = pushed(held, *parts("One ", "two ", "three ", "four "))
    assert text == "One "
    assert pushed(held, AnswerPart(text="end", tokens=1, finish="stop")) == "two three four end"


def test_an_answer_shorter_than_what_is_withheld_is_sent_at_its_end():
    held = HeldBack(50)
    assert pushed(held, *parts("One ", "two.")) == ""
    assert pushed(held, AnswerPart(finish="length")) == "One two."


def test_a_stop_sends_whole_sentences_of_what_is_withheld_and_counts_their_tokens():
    held = HeldBack(4)
    assert pushed(held, *parts("First ", "one. ", "It ", "ends. ", "Then ", "not")) == "First one. "
    assert [part.text for part in held.cut()] == ["It ends."]
    assert held.sent == 4
    assert held.push(AnswerPart(finish="stop")) == [AnswerPart(finish="stop")]


def test_a_stop_sends_nothing_of_an_unfinished_sentence_nor_of_thoughts():
    held = HeldBack(9)
    held.push(AnswerPart(thought="Hm. ", tokens=2))
    assert pushed(held, *parts("This ", "goes ", "on")) == ""
    assert held.cut() == []
    assert held.sent == 0


def test_withholding_nothing_passes_every_part_on():
    made = parts("One ", "two")
    held = HeldBack(0)
    assert [held.push(part) for part in made] == [[part] for part in made]
