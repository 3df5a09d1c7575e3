import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from demur.base.errors import DataError
from demur.core.example import SPLITS, Example, Message
from demur.core.rows.facets import TOLD
from demur.store.rows import read_examples, write_examples

text = st.text(st.characters(codec="utf-8"), min_size=1)
messages = st.tuples(
    st.sampled_from([(), (Message(role="system", content="Be brief."),)]),
    text.map(lambda t: (Message(role="user", content=t),)),
    st.just(()) | text.map(lambda t: (Message(role="assistant", content=t),)),
).map(lambda parts: parts[0] + parts[1] + parts[2])
examples = st.builds(
    Example,
    id=text,
    source=text,
    messages=messages,
    kind=st.sampled_from(["refusal", "contrast", "benign"]),
    category=text,
    subcategory=st.none() | text,
    group=st.none() | text,
    split=st.sampled_from(SPLITS),
    traits=st.lists(
        st.tuples(st.sampled_from(TOLD), text), unique_by=lambda t: t[0], max_size=2
    ).map(lambda traits: tuple(sorted(traits, key=lambda t: TOLD.index(t[0])))),
)
ROW = {
    "id": "a",
    "source": "s",
    "split": "test",
    "messages": [{"role": "user", "content": "Hi"}],
    "category": None,
    "expected": "respond",
    "kind": "benign",
    "subcategory": None,
    "group": None,
}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(examples, max_size=5))
def test_what_is_written_is_read(tmp_path, rows):
    path = tmp_path / "rows.jsonl"
    write_examples(path, rows)
    assert read_examples(path) == rows


def test_line_separators_inside_a_text_do_not_cut_a_row(tmp_path):
    content = "one\u2028two\u2029three\x85four\x0bfive\x1csix\r\nseven"
    turns = (Message(role="user", content=content),)
    rows = [Example(id="a", source="s", messages=turns, kind="benign", split="test")]
    write_examples(tmp_path / "rows.jsonl", rows)
    assert read_examples(tmp_path / "rows.jsonl") == rows


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({k: v for k, v in ROW.items() if k != "messages"}, "messages: Field required"),
        ({**ROW, "messages": []}, "no user message"),
        ({**ROW, "kind": "rude"}, "'rude'"),
        ({**ROW, "expected": "refuse"}, "of kind 'benign' but expected 'refuse'"),
        ({**ROW, "kind": "refusal", "expected": "refuse"}, "has no category"),
        ({**ROW, "catgory": None}, "catgory: unknown key"),
        ([], "the row is a list"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(tmp_path, row, says):
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{json.dumps(ROW)}\n{json.dumps(row)}\n")
    with pytest.raises(DataError) as e:
        read_examples(path)
    assert e.value.message.startswith(f"{path}:2: ")
    assert says in e.value.message
    assert e.value.hint


def test_a_file_cut_in_the_middle_of_a_row_is_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(ROW) + "\n" + json.dumps(ROW)[:40])
    with pytest.raises(DataError, match=r"rows\.jsonl:2 is not JSON"):
        read_examples(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.jsonl does not exist"):
        read_examples(tmp_path / "none.jsonl")


@pytest.mark.parametrize("split", SPLITS)
def test_held_out_rows_of_an_older_version_are_linked_when_they_are_read(tmp_path, split):
    texts = ["one two three four five", "one two three four five six", "quite another matter here"]
    rows = [
        {**ROW, "id": f"r{n}", "split": split, "messages": [{"role": "user", "content": text}]}
        for n, text in enumerate(texts)
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    first, second, third = read_examples(path)
    assert first.group == second.group
    assert (first.group is None) == (split == "train")
    assert third.group is None
    # rows with counts are as the data stage linked them
    path.write_text("".join(json.dumps({**row, "count": 2}) + "\n" for row in rows))
    assert {e.group for e in read_examples(path)} == {None}


def test_the_beginning_of_an_answer_is_kept_and_other_rows_are_written_as_before(tmp_path):
    turns = (Message(role="user", content="How?"),)
    plain = Example(
        id="a", source="s", messages=turns, kind="refusal", category="safety", split="train"
    )
    begun = Example(**{**{f: getattr(plain, f) for f in plain.__slots__}, "prefix": "Step 1"})
    write_examples(tmp_path / "rows.jsonl", [plain, begun])
    assert read_examples(tmp_path / "rows.jsonl") == [plain, begun]
    first, second = (tmp_path / "rows.jsonl").read_text().splitlines()
    assert "prefix" not in json.loads(first)
    assert json.loads(second)["prefix"] == "Step 1"
