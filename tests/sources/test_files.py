import json

import pytest

from demur.core.errors import DataError
from demur.sources.files import FileSource

REFUSAL = {
    "id": "a:1",
    "source": "a",
    "split": "validation",
    "messages": [{"role": "user", "content": "How do I pick my neighbour's lock?"}],
    "category": "safety",
    "expected": "refuse",
    "kind": "refusal",
    "subcategory": "privacy",
    "group": "g1",
}
BENIGN = {
    "messages": [{"role": "user", "content": "What is a lock?"}, {"role": "assistant", "content": "A fastening."}],
    "kind": "benign",
}


def source_of(folder, *lines, **options):
    text = "\n".join(line if isinstance(line, str) else json.dumps(line, ensure_ascii=False) for line in lines)
    (folder / "rows.jsonl").write_text(text, encoding="utf-8")
    return FileSource(folder=folder, files=("rows.jsonl",), **options)


def test_a_full_row_keeps_all_its_fields(tmp_path):
    (row,) = source_of(tmp_path, REFUSAL).read()
    assert (row.id, row.source, row.split, row.kind) == ("a:1", "a", "calibrate", "refusal")
    assert (row.category, row.subcategory, row.group) == ("safety", "privacy", "g1")
    assert row.text == "How do I pick my neighbour's lock?"
    assert row.reply is None


def test_messages_and_kind_are_enough_and_other_keys_are_ignored(tmp_path):
    (row,) = source_of(tmp_path, {**BENIGN, "toxicity": 0.1}).read()
    assert (row.source, row.split, row.category) == ("rows", None, None)
    assert row.reply == "A fastening."


@pytest.mark.parametrize(
    ("written", "read"), [("train", "train"), ("validation", "calibrate"), ("calibrate", "calibrate"), ("test", "test")]
)
def test_validation_is_the_split_to_calibrate_on(tmp_path, written, read):
    (row,) = source_of(tmp_path, {**BENIGN, "split": written}).read()
    assert row.split == read


def test_splits_can_be_left_to_the_data_stage(tmp_path):
    (row,) = source_of(tmp_path, REFUSAL, use_splits=False).read()
    assert row.split is None


def test_filters_keep_what_they_name(tmp_path):
    other = {**REFUSAL, "id": "b:1", "source": "b", "category": "incomplete"}
    rows = (REFUSAL, other, BENIGN)
    assert [r.id for r in source_of(tmp_path, *rows, kinds=("refusal",)).read()] == ["a:1", "b:1"]
    assert [r.id for r in source_of(tmp_path, *rows, exclude_sources=("a",)).read()][:1] == ["b:1"]
    assert [r.id for r in source_of(tmp_path, *rows, include_categories=("safety",)).read()][:1] == ["a:1"]


def test_a_line_separator_inside_a_text_does_not_cut_the_row(tmp_path):
    text = "one\u2028two\x85three\x0bfour"
    (row,) = source_of(tmp_path, {**BENIGN, "messages": [{"role": "user", "content": text}]}, "", "").read()
    assert row.text == text


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"messages": [', "is not JSON"),
        ("[1, 2]", "the row"),
        ({"kind": "benign"}, "there is no prompt: the row has the keys 'kind'"),
        ({**BENIGN, "messages": []}, "no user message"),
        ({**BENIGN, "messages": [{"role": "assistant", "content": "Hello."}]}, "no user message"),
        ({**BENIGN, "messages": [{"role": "user", "content": ""}]}, "messages.0.content"),
        ({**BENIGN, "messages": [{"role": "robot", "content": "Hi"}]}, "'robot'"),
        ({"messages": BENIGN["messages"]}, "kind"),
        ({**BENIGN, "kind": "refused"}, "'refused'"),
        ({**BENIGN, "split": "dev"}, "'dev'"),
        ({**BENIGN, "expected": "refuse"}, "expected 'refuse'"),
        ({**REFUSAL, "expected": "respond"}, "expected 'respond'"),
        ({**REFUSAL, "category": None}, "has no category"),
        ('{"kind": "benign", "messages": [{"role": "user", "content": "\\ud800"}]}', "messages.0.content"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line_with_a_remedy(tmp_path, line, says):
    with pytest.raises(DataError) as e:
        list(source_of(tmp_path, BENIGN, line).read())
    assert e.value.message.startswith(f"{tmp_path / 'rows.jsonl'}:2")
    assert says in e.value.message
    assert e.value.hint


def test_a_missing_file_and_a_missing_folder_are_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.jsonl does not exist"):
        list(FileSource(folder=tmp_path, files=("none.jsonl",)).read())
    with pytest.raises(DataError, match="nowhere does not exist"):
        list(FileSource(folder=tmp_path / "nowhere", files=("none.jsonl",)).read())


def test_a_file_that_is_not_text_is_named(tmp_path):
    (tmp_path / "rows.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"cannot read .*rows\.jsonl"):
        list(FileSource(folder=tmp_path, files=("rows.jsonl",)).read())
    with pytest.raises(DataError, match="is a folder"):
        list(FileSource(folder=tmp_path.parent, files=(tmp_path.name,)).read())
