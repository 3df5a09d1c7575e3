"""Thoughts told from answers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demur.core.conversation.thoughts import answer_of, split_thought


@pytest.mark.parametrize(
    "text",
    [
        "<think>I can't.</think>Take flour.",
        "<think>\nI can't.\n</think>\n\nTake flour.",
        "  <THINK>I can't.</THINK> Take flour.",
        "<thinking>I can't.</thinking>Take flour.",
        "<reasoning>a</reasoning><think>b</think>Take flour.",
        "I can't, or can I?\n</think>\n\nTake flour.",
        "<think>I write </think> at the end.</think>Take flour.",
        "[THINK]I can't.[/THINK]Take flour.",
        "◁think▷I can't.◁/think▷Take flour.",
        "<|begin_of_thought|>a<|end_of_thought|><|begin_of_solution|>Take "
        "flour.<|end_of_solution|>",
        "<think>a</think><answer>Take flour.</answer>",
        "<|channel|>analysis<|message|>I "
        "can't.<|end|><|start|>assistant<|channel|>final<|message|>Take flour.",
        "analysisThe user asks. I can't.assistantfinalTake flour.",
        "\u200b<think>x</think>Take flour.",
        "<seed:think>x</seed:think>Take flour.",
    ],
)
def test_the_answer_is_what_follows_the_thought(text):
    thought, answer = split_thought(text)
    assert answer == "Take flour."
    assert thought


@pytest.mark.parametrize(
    "text",
    ["<think>I can't go on", "[THINK]a", "<|channel|>analysis<|message|>We", "<think></think>"],
)
def test_a_thought_without_an_end_or_an_answer_leaves_nothing(text):
    assert answer_of(text) == ""


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Take flour.",
        " two  spaces ",
        "Write `</think>` to close it.",
        "The tag <think> opens a thought.",
        "a [THINK] b",
    ],
)
def test_an_answer_that_speaks_of_thoughts_is_left_as_it_is(text):
    assert split_thought(text) == ("", text)


@given(st.text(max_size=200))
def test_an_answer_is_never_longer_than_the_text(text):
    assert len(answer_of(text)) <= len(text)
