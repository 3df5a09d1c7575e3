"""What is read of an answer: its words, and nothing of what they are wrapped in."""

from hypothesis import given
from hypothesis import strategies as st

from demur.judges.unwrap import unwrap_answer


def test_a_text_that_is_not_wrapped_is_left_as_it_is() -> None:
    for text in (
        "Take flour.",
        " Take\nflour. ",
        "",
        '"Go," he said, "now."',
        '{"a": 1, "b": 2}',
        "[1, 2]",
        "```py\n1\n```",
    ):
        assert unwrap_answer(text) == text


def test_wrapping_comes_off_layer_by_layer() -> None:
    assert unwrap_answer('<think>hm</think>```json\n{"answer": "<p>**No**</p>"}\n```') == "**No**"
    assert unwrap_answer("[" * 5000) == "[" * 5000


@given(st.text(max_size=300))
def test_it_reads_any_text_in_bounded_time(text: str) -> None:
    assert isinstance(unwrap_answer(text), str)
