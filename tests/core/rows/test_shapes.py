"""One conversation in every shape that people write it in, and what is refused in a turn."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demur.base.errors import DataError
from demur.core.example import Message
from demur.core.rows.shapes import read_conversation, read_prefix

said = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1).filter(str.strip)
exchanges = st.lists(st.tuples(said, said), min_size=1, max_size=3)


def turns(row, **columns):
    return [(m.role, m.content) for m in read_conversation(row, columns).turns]


def openai(pairs):
    return [
        t
        for u, a in pairs
        for t in ({"role": "user", "content": u}, {"role": "assistant", "content": a})
    ]


def plain(pairs):
    return [t for u, a in pairs for t in (("user", u), ("assistant", a))]


@given(exchanges, st.none() | said)
def test_a_conversation_survives_every_shape(pairs, system):
    sharegpt = [
        t for u, a in pairs for t in ({"from": "human", "value": u}, {"from": "gpt", "value": a})
    ]
    messages, (last, reply) = openai(pairs), pairs[-1]
    parts = [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in messages]
    lead = [] if system is None else [{"role": "developer", "content": system}]
    wanted = [] if system is None else [("system", system)]
    wanted += plain(pairs)
    for row in (
        {"messages": [*lead, *messages]},
        {"messages": json.dumps([*lead, *messages])},  # a cell of a table
        {"messages": [*lead, *parts]},
        {"messages": messages, "system": system},
        {"conversations": sharegpt, "system": system},
        {"conversations": [*lead, *messages]},
        {
            "instruction": last,
            "input": "",
            "output": reply,
            "history": [list(p) for p in pairs[:-1]],
            "system": system,
        },
        {"prompt": [*lead, *messages[:-1]], "completion": messages[-1:]},
        {"prompt": [*lead, *messages[:-1]], "completion": reply},
        {
            "prompt": [*lead, *messages[:-1]],
            "chosen": messages[-1:],
            "rejected": [{"role": "assistant", "content": "x"}],
        },
        {"chosen": [*lead, *messages], "rejected": [*lead, *messages[:-1]]},
        {"prompt": last, "chosen": [*lead, *messages], "rejected": "x"},
        {"q": [*lead, *messages[:-1]], "a": reply},
    ):
        columns = {"prompt": "q", "reply": "a"} if "q" in row else {}
        assert turns(row, **columns) == wanted


@given(said, said)
def test_one_exchange_survives_the_flat_shapes(prompt, reply):
    for row in (
        {"prompt": prompt, "completion": reply},
        {"prompt": prompt, "response": reply, "messages": None},
        {"question": prompt, "answer": reply},
        {"instruction": prompt, "output": reply},
        {"input": prompt, "output": reply},
        {"prompt": prompt, "chosen": reply, "rejected": "no"},
    ):
        assert turns(row) == [("user", prompt), ("assistant", reply)]
    assert turns({"prompt": prompt, "reply": None}) == [("user", prompt)]


def test_an_alpaca_input_stands_below_its_instruction():
    assert turns({"instruction": "Translate.", "input": "Haus", "output": "house"}) == [
        ("user", "Translate.\nHaus"),
        ("assistant", "house"),
    ]


CALL = {"id": "c1", "type": "function", "function": {"name": "cal", "arguments": '{"day": 1}'}}


def test_tool_turns_become_the_words_that_the_server_makes_of_them():
    row = {
        "messages": [
            {"role": "user", "content": "What is on?"},
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {
                "role": "tool",
                "tool_call_id": "c1",
                "content": [{"type": "text", "text": "nothing"}],
            },
            {"role": "assistant", "content": "Nothing.", "refusal": None, "tool_calls": []},
        ]
    }
    assert turns(row) == [
        ("user", "What is on?"),
        ("assistant", 'cal({"day": 1})'),
        ("user", "cal returned:\nnothing"),
        ("assistant", "Nothing."),
    ]
    sharegpt = [
        {"from": "human", "value": "What is on?"},
        {"from": "function_call", "value": "cal()"},
        {"from": "observation", "value": "nothing"},
    ]
    assert turns({"conversations": sharegpt})[1:] == [
        ("assistant", "cal()"),
        ("user", "tool returned:\nnothing"),
    ]


def test_what_says_nothing_is_left_out():
    user = {"role": "user", "content": "Hi"}
    assert turns({"messages": [{"role": "system", "content": " "}, user]}) == [("user", "Hi")]
    assert turns({"messages": [user, {"role": "assistant", "content": ""}]}) == [("user", "Hi")]
    assert turns({"messages": [user, {"role": "assistant", "content": None, "refusal": "No."}]})[
        1
    ] == (
        "assistant",
        "No.",
    )
    thought = [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "Yes."}]
    assert turns({"messages": [user, {"role": "assistant", "content": thought}]})[1] == (
        "assistant",
        "Yes.",
    )


def test_an_empty_past_answer_is_one_as_the_server_has_it():
    row = {
        "messages": [
            message("a")["messages"][0],
            {"role": "assistant", "content": None},
            message("b")["messages"][0],
        ]
    }
    assert turns(row) == [("user", "a"), ("assistant", ""), ("user", "b")]


def test_assistant_first_and_two_users_in_a_row_are_kept():
    row = {
        "messages": [{"role": r, "content": r} for r in ("assistant", "user", "user", "assistant")]
    }
    assert [role for role, _ in turns(row)] == ["assistant", "user", "user", "assistant"]


def message(content, role="user"):
    return {"messages": [{"role": role, "content": content}]}


@pytest.mark.parametrize(
    ("row", "says", "hint"),
    [
        (message("a\0b"), "messages.0.content: the text holds the character U+0000", "take it out"),
        (
            message("a\ud83d b"),
            r"messages.0.content: the text holds half of a character, \ud83d",
            "mend",
        ),
        (message(" \n"), "messages.0.content: the user's turn is blank", "drop"),
        (message([]), "messages.0.content: the user's turn is blank", "drop"),
        (
            message([{"type": "image_url", "image_url": {"url": "x"}}]),
            "'image_url' cannot be read: text only",
            "text",
        ),
        (
            message([{"type": "text", "text": "a"}, {"type": "input_audio"}]),
            "messages.0.content.1",
            "text",
        ),
        (message(3), "messages.0.content: 3 is not a text", "text"),
        (message("a", "robot"), "messages.0.role: 'robot' is an unknown role", "human"),
        ({"messages": ["hi"]}, "messages.0: 'hi' is not a turn", "role"),
        ({"messages": "hi"}, "messages: 'hi' is not a list of turns", "JSON"),
        ({"messages": {"role": "user"}}, "is not a list of turns", "role"),
        (
            {"messages": [{"role": "assistant", "tool_calls": "cal()"}]},
            "is not a list of calls",
            "function",
        ),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"id": "1"}]}]},
            "is not a tool call",
            "function",
        ),
        ({"prompt": "  "}, "prompt: it is blank", "drop"),
        ({"prompt": None, "label": "x"}, "prompt: it is blank", "drop"),
        ({"prompt": float("nan")}, "prompt: it is blank", "drop"),
        ({"prompt": 7}, "prompt: 7 is not a text", "text"),
        ({"text": "a", "y": 1}, "there is no prompt: the row has the keys 'text', 'y'", "columns"),
        ({}, "there is no prompt: the row has the keys none", "columns"),
        ({"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "c"}, "whole dialogue", "column"),
        (
            {"prompt": "a", "completion": [{"role": "assistant", "content": "\0"}]},
            "completion.0.content",
            "out",
        ),
        ({"instruction": "a", "history": "b"}, "history: 'b' is not a list", "request"),
        ({"instruction": "a", "history": [1]}, "history: [1] is not a list", "request"),
        ({"instruction": "a", "history": [[1, 2]]}, "history.0.0.content: 1 is not a text", "text"),
        ({"prompt": b"raw"}, "prompt: b'raw' is not a text", "text"),
    ],
)
def test_what_is_no_conversation_is_named_by_its_key(row, says, hint):
    with pytest.raises(DataError) as e:
        read_conversation(row)
    assert says in e.value.message
    assert hint in e.value.hint


def test_a_named_prompt_goes_before_the_usual_keys():
    row = {
        "messages": [{"role": "user", "content": "a"}],
        "q": "b",
        "dialog": [{"role": "user", "content": "c"}],
    }
    assert read_conversation(row, {"prompt": "q"}).turns == (Message(role="user", content="b"),)
    assert read_conversation(row, {"messages": "dialog"}).turns == (
        Message(role="user", content="c"),
    )


@pytest.mark.parametrize(
    ("row", "reply", "prefix"),
    [
        ({"response": "Sure."}, "Sure.", None),
        ({"response": "No.", "prefix": "Step 1"}, "No.", "Step 1"),
        ({"response": "No.", "unsafe_reply": "Step 1"}, "No.", "Step 1"),
        ({"response": "Step 1", "is_safe": False}, None, "Step 1"),
        ({"response": "Step 1", "is_safe": "False", "category": {"a": True}}, None, "Step 1"),
        ({"response": "No.", "is_safe": True}, "No.", None),
        ({"response": "No.", "prefix": " "}, "No.", None),
    ],
)
def test_the_beginning_of_an_answer_that_should_not_be_is_never_its_reply(row, reply, prefix):
    whole = {"prompt": "How?", **row}
    asked = [("user", "How?")]
    assert turns(whole) == [*asked, *([("assistant", reply)] if reply else [])]
    assert read_prefix(whole) == prefix


def test_a_column_of_prefixes_may_have_another_name():
    assert read_prefix({"prompt": "How?", "begun": "Well"}, "begun") == "Well"
