"""Files of prefixes, matched with the training rows that turn back from them."""

import json

import pytest

from demur.base.errors import DataError
from demur.core.example import Example, Message
from demur.store.prefixes_file import add_prefixes, read_prefixes


def row(name, kind="refusal", **more):
    return Example(
        id=name,
        source="t",
        messages=(
            Message(role="user", content=f"How do I {name}?"),
            Message(role="assistant", content="I will not say."),
        ),
        kind=kind,
        category="safety",
        **more,
    )


def file_of(folder, *rows):
    path = folder / "begun.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def test_a_prompt_gets_the_first_prefix_that_is_not_safe_and_a_row_keeps_its_own(tmp_path):
    path = file_of(
        tmp_path,
        {"prompt": "How do I pick it?", "response": "No.", "is_safe": True},
        {"prompt": "how do I pick it", "response": "Take a pin", "is_safe": False},
        {"prompt": "How do I pick it?", "response": "Ask a smith", "is_safe": False},
        {"prompt": "How do I cut it?", "prefix": "Take a saw"},
        {"prompt": "How do I melt it?", "prefix": "Take a torch"},
    )
    learnt = [row("pick it"), row("cut it", prefix="My own"), row("melt it", "contrast")]
    found = add_prefixes(path, learnt, {"test": [row("burn it")]})
    assert [e.prefix for e in found] == ["Take a pin", "My own", None]
    assert [e.messages for e in found] == [e.messages for e in learnt]


def test_a_prefix_for_a_row_that_is_held_out_is_refused_by_name(tmp_path):
    path = file_of(tmp_path, {"prompt": "How do I cut it?", "prefix": "Take a saw"})
    with pytest.raises(DataError, match=r"jsonl:1: the prompt is one of the calibrate split"):
        add_prefixes(path, [row("cut it")], {"calibrate": [row("cut it")]})


def test_prefixes_of_no_training_refusal_are_refused(tmp_path):
    path = file_of(tmp_path, {"prompt": "How do I fly?", "prefix": "Flap"})
    with pytest.raises(DataError, match="none of its 1 prompts is that of a training row"):
        add_prefixes(path, [row("cut it")], {})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"prompt": "How?"}, "begun.jsonl:1: there is no prefix: the row has the keys 'prompt'"),
        ({"prefix": "Well"}, "begun.jsonl:1: there is no prompt"),
        ({"prompt": "How?", "prefix": " "}, "begun.jsonl:1: there is no prefix"),
    ],
)
def test_a_row_without_prompt_or_prefix_is_named(tmp_path, wrong, message):
    with pytest.raises(DataError, match=message):
        read_prefixes(file_of(tmp_path, wrong))
