import json
import tomllib
from dataclasses import replace

import pytest
from tests.base.test_rows import saved

from demur.base.errors import ConfigError, DataError
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
    "messages": [
        {"role": "user", "content": "What is a lock?"},
        {"role": "assistant", "content": "A fastening."},
    ],
    "kind": "benign",
}


def source_of(folder, *lines, **options):
    text = "\n".join(
        line if isinstance(line, str) else json.dumps(line, ensure_ascii=False) for line in lines
    )
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
    ("written", "read"),
    [("train", "train"), ("validation", "calibrate"), ("calibrate", "calibrate"), ("test", "test")],
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
    assert [r.id for r in source_of(tmp_path, *rows, include_categories=("safety",)).read()][
        :1
    ] == ["a:1"]


def test_a_line_separator_inside_a_text_does_not_cut_the_row(tmp_path):
    text = "one\u2028two\x85three\x0bfour"
    (row,) = source_of(
        tmp_path, {**BENIGN, "messages": [{"role": "user", "content": text}]}, "", ""
    ).read()
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
        ('{"id": "\\ud83d", "kind": "benign", "prompt": "a"}', "half of a character"),
        ('{"group": "\\u0000", "kind": "benign", "prompt": "a"}', "U+0000"),
        ({**BENIGN, "expected": "refuse"}, "expected 'refuse'"),
        ({**REFUSAL, "expected": "respond"}, "expected 'respond'"),
        ({**REFUSAL, "category": None}, "has no category"),
        (
            '{"kind": "benign", "messages": [{"role": "user", "content": "\\ud800"}]}',
            "messages.0.content",
        ),
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


def test_rows_without_an_id_are_named_by_what_they_say(tmp_path):
    first, again, other = source_of(
        tmp_path, BENIGN, BENIGN, {**BENIGN, "messages": BENIGN["messages"][:1]}
    ).read()
    assert first.id.startswith("rows:")
    assert again.id == f"{first.id}-2"
    assert other.id not in (first.id, again.id)
    (moved,) = source_of(tmp_path, "", {**BENIGN, "note": "x"}).read()
    assert moved.id == first.id


def test_ids_may_be_numbers_and_files_may_both_count_from_one(tmp_path):
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("id,prompt,label\n1,Hi,respond\n2,Steal it,refuse\n")
    (tmp_path / "c.jsonl").write_text(json.dumps({**BENIGN, "id": 3}) + "\n")
    found = FileSource(folder=tmp_path, files=("a.csv", "b.csv", "c.jsonl")).read()
    assert [e.id for e in found] == ["a:1", "a:2", "b:1", "b:2", "3"]
    with pytest.raises(DataError, match=r"rows\.jsonl:2: id '7' stands at .*rows\.jsonl:1 too"):
        list(source_of(tmp_path, {**BENIGN, "id": 7}, {**BENIGN, "id": "7"}).read())


def test_a_table_of_a_prompt_and_a_label_is_enough(tmp_path):
    (tmp_path / "a.csv").write_bytes("q;y;a\nCafé?;1;\nThé?;0;Oui\nJunk;2;\n".encode("cp1252"))
    options = {
        "columns": {"prompt": "q", "label": "y", "reply": "a"},
        "encoding": "cp1252",
        "category": "safety",
    }
    mapped = {"label_map": {"1": "refuse", "0": "respond", "2": "skip"}}
    refused, answered = FileSource(folder=tmp_path, files=("a.csv",), **options, **mapped).read()
    assert (refused.text, refused.label, refused.reply) == ("Café?", "safety", None)
    assert (answered.text, answered.kind, answered.reply) == ("Thé?", "contrast", "Oui")


def test_an_unknown_label_shows_the_values_seen_and_a_map_to_paste(tmp_path):
    rows = [{"prompt": "a", "label": label} for label in ("harmful", "harmless", "harmless", "qz")]
    with pytest.raises(DataError) as e:
        list(source_of(tmp_path, *rows).read())
    assert "rows.jsonl:1: label: 'harmful' does not tell" in e.value.message
    assert "'harmless' (2), 'harmful' (1), 'qz' (1)" in e.value.message
    paste = '{ "harmless" = "respond", "harmful" = "refuse", "qz" = "skip" }'
    assert paste in e.value.hint
    mapping = tomllib.loads(f"m = {paste}")["m"]
    kinds = [x.kind for x in source_of(tmp_path, *rows, label_map=mapping).read()]
    assert kinds == ["refusal", "benign", "benign"]


def test_rows_of_a_source_may_all_be_of_one_kind(tmp_path):
    row = {
        "conversations": [{"from": "human", "value": "Steal it."}, {"from": "gpt", "value": "No."}]
    }
    (found,) = source_of(tmp_path, row, rows_kind="refusal", category="safety").read()
    assert (found.label, found.reply) == ("safety", "No.")


def test_a_saved_folder_brings_its_splits(tmp_path):
    for split in ("train", "validation", "extra"):
        saved(tmp_path / "set" / split, [{"prompt": f"{split}?", "label": "respond"}])
    (tmp_path / "set" / "dataset_dict.json").write_text(
        '{"splits": ["train", "validation", "extra"]}'
    )
    source = FileSource(folder=tmp_path, files=("set",))
    assert [e.split for e in source.read()] == ["train", "calibrate", None]
    assert {e.split for e in replace(source, use_splits=False).read()} == {None}


def test_settings_that_mean_nothing_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="encoding 'cp9999' is unknown"):
        FileSource(folder=tmp_path, files=("a.csv",), encoding="cp9999")
    with pytest.raises(ConfigError, match="not a column that demur reads"):
        FileSource(folder=tmp_path, files=("a.csv",), columns={"promt": "q"})


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_counts_and_sessions_are_read_from_every_format(tmp_path, suffix):
    rows = [
        {"prompt": "What is a lock?", "label": "respond", "n": 3, "conversation_id": 7},
        {"prompt": "Pick my neighbour's lock", "label": "refuse", "n": 1, "conversation_id": 8},
    ]
    path = tmp_path / f"rows.{suffix}"
    match suffix:
        case "jsonl":
            path.write_text("".join(json.dumps(r) + "\n" for r in rows))
        case "csv":
            lines = [",".join(rows[0]), *(",".join(f'"{v}"' for v in r.values()) for r in rows)]
            path.write_text("\n".join(lines))
        case _:
            parquet = pytest.importorskip("pyarrow.parquet")
            parquet.write_table(pytest.importorskip("pyarrow").Table.from_pylist(rows), path)
    source = FileSource(folder=tmp_path, files=(path.name,), columns={"count": "n"})
    assert [(e.count, e.session) for e in source.read()] == [(3, "7"), (1, "8")]


def test_a_wrong_count_names_file_line_and_value(tmp_path):
    lines = ({**BENIGN, "count": 2}, {**BENIGN, "count": 2.5})
    with pytest.raises(DataError, match=r"rows\.jsonl:2: count: 2\.5 is no number of requests"):
        list(source_of(tmp_path, *lines).read())
