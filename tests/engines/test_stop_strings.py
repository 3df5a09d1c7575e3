"""Stop strings in streamed text."""

from hypothesis import given
from hypothesis import strategies as st

from demur.engines.stop_strings import StopStrings

WORDS = st.text(alphabet="ab.", min_size=1, max_size=4)


def run(stops, pieces):
    stop = StopStrings(stops)
    shown = [stop.feed(piece) for piece in pieces]
    return shown, stop


def cut(text, marks):
    ends = sorted({min(m, len(text)) for m in marks} | {len(text)})
    return [text[a:b] for a, b in zip([0, *ends], ends, strict=False)]


@given(
    text=st.text(alphabet="ab.", max_size=30),
    stops=st.lists(WORDS, max_size=3),
    marks=st.lists(st.integers(0, 30)),
)
def test_what_comes_out_does_not_depend_on_how_the_text_was_cut(text, stops, marks):
    letters, one = run(stops, list(text))
    pieces, other = run(stops, cut(text, marks))
    assert one.met == other.met == any(s in text for s in stops)
    assert "".join(letters) + one.flush() == "".join(pieces) + other.flush()


@given(text=st.text(alphabet="ab.", max_size=30), stop=WORDS)
def test_one_stop_string_cuts_at_its_first_place(text, stop):
    shown, watcher = run([stop], list(text))
    assert "".join(shown) + watcher.flush() == text.partition(stop)[0]


@given(text=st.text(alphabet="ab.", max_size=30), stop=WORDS)
def test_no_prefix_of_a_stop_string_is_shown_before_it_is_told_apart(text, stop):
    watcher, shown = StopStrings([stop]), ""
    for letter in text + stop:
        shown += watcher.feed(letter)
    assert shown == (text + stop).partition(stop)[0]


def test_text_is_let_through_at_once_where_no_stop_string_begins():
    assert run(["END"], ["Hello", " E", "NJOY", " EN", "D x", "more"])[0] == [
        "Hello",
        " ",
        "ENJOY",
        " ",
        "",
        "",
    ]


def test_empty_stop_strings_are_none():
    assert run([""], ["abc"])[0] == ["abc"]
