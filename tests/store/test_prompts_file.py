import json

import pytest

from demur.base.errors import DataError
from demur.core.example import Message
from demur.store.prompts_file import read_each_prompt, read_prompts


def write(path, *rows):
    path.write_text(
        "".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows), encoding="utf-8"
    )
    return path


def turns(*pairs):
    return [{"role": role, "content": content} for role, content in pairs]


def test_prompts_messages_and_our_own_rows_are_read(tmp_path):
    path = write(
        tmp_path / "p.jsonl",
        {"prompt": "Name a river.", "id": 7},
        {"messages": turns(("system", "Be brief."), ("user", "And a lake?"))},
        {
            "messages": turns(("user", "Who won?"), ("assistant", "Nobody.")),
            "kind": "refusal",
            "group": "g",
            "id": "x",
        },
    )
    first, second, third = read_prompts([path]).rows
    assert (first.id, first.messages) == ("7", (Message(role="user", content="Name a river."),))
    assert (second.id, [m.role for m in second.messages]) == ("p:2", ["system", "user"])
    assert (third.id, third.group, [m.content for m in third.messages]) == ("x", "g", ["Who won?"])


def test_rows_without_a_prompt_are_named_by_line_and_repeated_ones_counted(tmp_path):
    lacking = (
        {"text": "a"},
        {"prompt": "  "},
        {"prompt": 3},
        {"messages": []},
        {"prompt": "\ud800"},
    )
    path = write(tmp_path / "p.jsonl", {"prompt": "One?"}, "", {"prompt": " one "}, *lacking)
    more = write(
        tmp_path / "q.jsonl", {"prompt": "ONE"}, {"messages": turns(("assistant", "Hello."))}
    )
    found = read_prompts([path, more])
    assert [p.id for p in found.rows] == ["p:1"]
    assert found.duplicates == 2
    assert found.without == (*(f"{path}:{n}" for n in range(4, 9)), f"{more}:2")


def test_a_broken_line_a_repeated_id_and_a_file_without_prompts_are_errors(tmp_path):
    with pytest.raises(DataError, match=r"p\.jsonl:2 is not JSON"):
        read_prompts([write(tmp_path / "p.jsonl", {"prompt": "a"}, '{"prompt": "b')])
    with pytest.raises(DataError, match=r"q\.jsonl:2: id 'i' stands at .*q\.jsonl:1 too"):
        read_prompts(
            [write(tmp_path / "q.jsonl", {"id": "i", "prompt": "a"}, {"id": "i", "prompt": "b"})]
        )
    with pytest.raises(DataError, match="2 rows, none with a prompt"):
        read_prompts([write(tmp_path / "r.jsonl", {"q": "a"}, {"q": "b"})])


def test_a_prompt_is_asked_once_and_stands_for_all_its_requests(tmp_path):
    rows = (
        {"prompt": "One?", "count": 3, "session": "a"},
        {"prompt": "Two?", "session": "a"},
        {"prompt": "one", "session": "b"},
        {"prompt": "Three?", "conversation_id": "c"},
    )
    one, two, three = read_prompts([write(tmp_path / "p.jsonl", *rows)]).rows
    assert [(p.id, p.count) for p in (one, two, three)] == [("p:1", 4), ("p:2", 1), ("p:4", 1)]
    assert (two.session, three.session) == ("a", "c")
    assert one.session.startswith("2 sessions ")  # and of neither


@pytest.mark.parametrize("read", [lambda p: read_prompts([p]), read_each_prompt])
@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (({"prompt": "a"}, {"prompt": "b", "count": 0}), r"p\.jsonl:2: count: 0 is no number of"),
        (({"prompt": "a", "session": "s"}, {"prompt": "b"}), "1 of 2 rows have no session, first"),
    ],
)
def test_counts_and_sessions_that_are_none_are_errors(tmp_path, read, rows, says):
    with pytest.raises(DataError, match=says) as e:
        read(write(tmp_path / "p.jsonl", *rows))
    assert e.value.hint
