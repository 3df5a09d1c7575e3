import pytest

from demur.base.errors import DataError
from demur.core.example import Example, Message, fold, prompt_key, shared_prompts


def example(text, *, id="1", kind="refusal", category="safety", reply=None, group=None, source="s"):
    messages = [Message(role="user", content=text)]
    if reply is not None:
        messages.append(Message(role="assistant", content=reply))
    return Example(
        id=id, source=source, messages=tuple(messages), kind=kind, category=category, group=group
    )


def test_only_refusal_rows_are_to_be_refused():
    labels = {k: example("x", kind=k).label for k in ("refusal", "contrast", "benign")}
    assert labels == {"refusal": "safety", "contrast": None, "benign": None}
    assert example("x", kind="contrast").expected == "respond"


def test_the_reply_is_no_part_of_the_prompt():
    row = example("How?", reply="Thus.")
    assert (row.text, row.reply, len(row.prompt)) == ("How?", "Thus.", 1)
    assert example("How?").reply is None


def test_a_row_without_a_user_turn_is_refused():
    with pytest.raises(DataError, match="'7' has no user message"):
        Example(id="7", source="s", messages=(), kind="benign")
    with pytest.raises(DataError, match="no user message"):
        Example(
            id="7", source="s", messages=(Message(role="assistant", content="x"),), kind="benign"
        )


def test_a_refusal_without_a_category_is_refused():
    with pytest.raises(DataError, match="has no category"):
        example("x", category=None)


def test_prompts_are_the_same_up_to_case_punctuation_and_space():
    assert fold("  How, DO\tI… ﬁx it?!") == "how do i fix it"
    assert prompt_key(example("Who are you?")) == prompt_key(example("who are  you", reply="me"))


def test_shared_prompts_are_found_by_text_and_by_group():
    train = [example("a b", id="1", group="g"), example("c", id="2")]
    test = [
        example("A, b!", id="3"),
        example("d", id="4", group="g"),
        example("d", id="5", group="g", source="other"),
    ]
    assert shared_prompts(train, test) == (["3"], ["4", "5"])


@pytest.mark.parametrize("count", [0, -1, 1.0, True, "2"])
def test_a_count_is_a_whole_number_of_requests(count):
    with pytest.raises(DataError, match="'a' has count"):
        Example(
            id="a",
            source="s",
            messages=(Message(role="user", content="Hi"),),
            kind="benign",
            count=count,
        )
