"""One reader for every verb: the same rows in each format, and errors that name file and line."""

import codecs
import contextlib
import json
import random

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from demur.base.errors import DataError
from demur.base.rows import read_rows, rows_below

ROWS = [
    {"id": "1", "prompt": "Grüße, «Welt»; 100 %", "label": "respond"},
    {"id": "2", "prompt": 'a "b"\nc', "label": None},
]
JSONL = "\n".join(json.dumps(r, ensure_ascii=False) for r in ROWS) + "\n"
CSV = 'id,prompt,label\n1,"Grüße, «Welt»; 100 %",respond\n2,"a ""b""\nc",\n'

TEXT_FILES = {
    "plain.jsonl": JSONL.encode(),
    "bom.jsonl": codecs.BOM_UTF8 + JSONL.encode(),
    "crlf.jsonl": JSONL.replace("\n", "\r\n").encode(),
    "cr.jsonl": JSONL.replace("\n", "\r").encode(),
    "utf16.jsonl": JSONL.encode("utf-16"),
    "utf16be.jsonl": codecs.BOM_UTF16_BE + JSONL.encode("utf-16-be"),
    "utf32.jsonl": JSONL.encode("utf-32"),
    "lines.json": JSONL.encode(),
    "array.json": json.dumps(ROWS, indent=2).encode(),
    "array.jsonl": json.dumps(ROWS).encode(),
    "bom-array.json": codecs.BOM_UTF8 + json.dumps(ROWS).encode(),
    "rows": JSONL.encode(),
    "plain.csv": CSV.encode(),
    "bom.csv": codecs.BOM_UTF8 + CSV.encode(),
    "utf16.csv": CSV.encode("utf-16"),
    "semicolon.csv": (
        'id;prompt;label\n1;"Grüße, «Welt»; 100 %";respond\n2;"a ""b""\nc";\n'
    ).encode(),
    "tabs.tsv": (
        'id\tprompt\tlabel\n1\tGrüße, «Welt»; 100 %\trespond\n\n2\t"a ""b""\nc"\t\n'
    ).encode(),
    "excel.csv": b"sep=;\r\n"
    + 'id;prompt;label\r\n1;"Grüße, «Welt»; 100 %";respond\r\n2;"a ""b""\nc";\r\n'.encode(),
    "jsonl.csv": JSONL.encode(),
    "table": CSV.encode(),
}


@pytest.mark.parametrize("name", TEXT_FILES)
def test_the_same_rows_come_out_of_every_text_format(tmp_path, name):
    (tmp_path / name).write_bytes(TEXT_FILES[name])
    assert [r.value for r in read_rows(tmp_path / name)] == ROWS


def saved(folder, rows):
    """A folder as save_to_disk of the package `datasets` writes it, without that package."""
    folder.mkdir(parents=True)
    table = pa.Table.from_pylist(rows)
    with pa.ipc.new_stream(str(folder / "data-00000-of-00001.arrow"), table.schema) as out:
        out.write_table(table)
    (folder / "state.json").write_text(
        json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]})
    )
    return folder


def test_the_same_rows_come_out_of_columnar_files_and_saved_folders(tmp_path):
    table = pa.Table.from_pylist(ROWS)
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    pyarrow.parquet.write_table(table, tmp_path / "noname")
    with pa.ipc.new_file(str(tmp_path / "a.arrow"), table.schema) as out:
        out.write_table(table)
    saved(tmp_path / "one", ROWS)
    for name in ("a.parquet", "noname", "a.arrow", "one"):
        assert [r.value for r in read_rows(tmp_path / name)] == ROWS
    assert [r.where for r in read_rows(tmp_path / "a.parquet")][
        -1
    ] == f"{tmp_path / 'a.parquet'}: row 2"


def test_the_splits_of_a_saved_folder_are_known(tmp_path):
    for name in ("train", "test"):
        saved(tmp_path / "two" / name, ROWS)
    (tmp_path / "two" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert [(r.part, r.number) for r in read_rows(tmp_path / "two")] == [
        ("train", 1), ("train", 2), ("test", 1), ("test", 2),
    ]  # fmt: skip


def test_a_folder_that_the_package_saved_itself_is_read(tmp_path):
    datasets = pytest.importorskip("datasets", reason="datasets is not installed (extra 'hub')")
    rows = datasets.Dataset.from_list(ROWS)
    rows.select([1, 0]).save_to_disk(tmp_path / "one")  # as indices over the table
    datasets.DatasetDict({"train": rows, "validation": rows}).save_to_disk(tmp_path / "two")
    assert [r.value for r in read_rows(tmp_path / "one")] == ROWS[::-1]
    assert [r.part for r in read_rows(tmp_path / "two")] == ["train"] * 2 + ["validation"] * 2


cells = st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), min_size=1)
tables = st.lists(
    st.fixed_dictionaries({"id": cells, "a b": cells, "c,d": cells}), min_size=1, max_size=4
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(tables)
@example([{"id": " ", "a b": " ", "c,d": " "}])
def test_what_arrow_writes_as_csv_and_parquet_is_read_as_it_was(tmp_path, rows):
    table = pa.Table.from_pylist(rows)
    pa.csv.write_csv(table, tmp_path / "a.csv")
    pa.parquet.write_table(table, tmp_path / "a.parquet")
    (tmp_path / "a.json").write_text(json.dumps(rows), encoding="utf-16")
    for name in ("a.parquet", "a.json"):
        assert [r.value for r in read_rows(tmp_path / name)] == rows
    # blank lines of text are left out
    not_blank = [r for r in rows if any(cell.strip() for cell in r.values())]
    assert [r.value for r in read_rows(tmp_path / "a.csv")] == not_blank


def test_lines_are_counted_as_an_editor_counts_them(tmp_path):
    (tmp_path / "a.csv").write_text('\na,b\n1,"x\ny"\n\n2,z\n')
    assert [r.number for r in read_rows(tmp_path / "a.csv")] == [3, 6]
    (tmp_path / "a.jsonl").write_text('{"a": "one\u2028two"}\n\n  \n{"a": "\x85"}\n')
    assert [(r.number, r.value["a"]) for r in read_rows(tmp_path / "a.jsonl")] == [
        (1, "one\u2028two"),
        (4, "\x85"),
    ]


def test_a_cell_may_be_longer_than_the_csv_modules_own_limit(tmp_path):
    (tmp_path / "a.csv").write_text(f"a,b\n{'x' * 200_000},1\n")
    assert len(next(read_rows(tmp_path / "a.csv")).value["a"]) == 200_000


@pytest.mark.parametrize(
    ("name", "data", "says", "hint"),
    [
        ("a.jsonl", b"id,prompt\n1,hello\n", "looks like CSV with the header 'id,prompt'", "a.csv"),
        ("a.jsonl", b'{"a": 1}\n{"a": ', "a.jsonl:2 is not JSON", "cut off"),
        ("a.jsonl", b'{"a": 1}\n[1]\n', "a.jsonl:2: the row is a list", "object"),
        ("a.json", b'[{"a": 1}, 2]', "a.json: row 2: the row is a int", "object"),
        ("a.json", b'[{"a": 1},\n {"a"', "a.json:2 is not JSON", "array"),
        (
            "a.json",
            b'{\n "data": [],\n "version": 1}',
            "one JSON object over several lines, with the keys 'data'",
            "jq",
        ),
        ("a.jsonl", b"hello\n", "a.jsonl:1 is not JSON: it begins with 'hello'", "object per line"),
        ("a.jsonl", b"[" * 100_000, "nested too deeply", "array"),
        ("a.jsonl", b'{"a": ' * 100_000, "nested too deeply", "cut off"),
        ("a.jsonl", b'{"a": ' + b"9" * 5000 + b"}", "a.jsonl:1 is not JSON", ""),
        ("a.csv", "a,b\nx,caf\xe9\n".encode("cp1252"), "byte 0xe9 in line 2 is no UTF-8", "cp1252"),
        (
            "a.csv",
            b"a,b\n1,2\n1,2,3\n",
            "a.csv:3: 3 cells, but the header has 2 columns: a, b",
            "','",
        ),
        ("a.csv", b'a,b\n1,"x\n', "a.csv:2 is not CSV", "quote"),
        ("a.csv", b"a,b,a\n1,2,3\n", "names the column 'a' twice", "rename"),
        ("a.txt", b"one prompt\n", "of no known format", ".jsonl"),
        ("a.jsonl", '{"a": 1}'.encode("utf-16-le"), "UTF-16 without a byte-order mark", "iconv"),
        ("a.jsonl", b"\xff\xfe\x00", "cannot read", "UTF-8"),
        ("a.csv.gz", b"\x1f\x8b\x08", "a gzip file", "gunzip"),
        ("a.xlsx", b"PK\x03\x04", "spreadsheet", "CSV"),
        ("a.parquet", b"PAR1 cut", "cannot read", "damaged"),
        ("b.parquet", b"a,b\n", "does not begin as a Parquet file", "again"),
        ("a.arrow", b"ARROW1\0\0 cut", "cannot read", "damaged"),
        ("b.arrow", b"\xff\xff\xff\xff cut", "cannot read", "damaged"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_place_and_a_remedy(tmp_path, name, data, says, hint):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError) as e:
        list(read_rows(tmp_path / name))
    assert str(tmp_path / name) in e.value.message
    assert says in e.value.message
    assert hint in e.value.hint


def test_an_encoding_that_is_named_is_used(tmp_path):
    (tmp_path / "a.csv").write_bytes("a,b\nx,caf\xe9\n".encode("cp1252"))
    assert next(read_rows(tmp_path / "a.csv", "cp1252")).value["b"] == "café"


def test_a_folder_shows_what_can_be_read_in_it(tmp_path):
    for name in ("b.csv", "sub/a.jsonl", ".hidden/x.csv", "notes.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    saved(tmp_path / "set", ROWS)
    assert [p.relative_to(tmp_path).as_posix() for p in rows_below(tmp_path)] == [
        "b.csv",
        "set",
        "sub/a.jsonl",
    ]
    with pytest.raises(DataError, match="is a folder, and none that `datasets` saved"):
        list(read_rows(tmp_path / "sub"))


def test_a_damaged_table_is_an_error_and_never_the_end_of_the_process(tmp_path):
    table = pa.Table.from_pylist(ROWS * 20)
    pyarrow.parquet.write_table(table, tmp_path / "whole.parquet")
    whole = {"a.parquet": (tmp_path / "whole.parquet").read_bytes()}
    whole["a.arrow"] = (
        saved(tmp_path / "set", ROWS * 20) / "data-00000-of-00001.arrow"
    ).read_bytes()
    draw = random.Random(0)
    for name, data in whole.items():
        for _ in range(200):
            damaged = bytearray(data)
            for _ in range(draw.randint(1, 4)):
                damaged[draw.randrange(len(damaged))] = draw.randrange(256)
            (tmp_path / name).write_bytes(damaged)
            with contextlib.suppress(DataError):
                assert len(list(read_rows(tmp_path / name))) >= 0
