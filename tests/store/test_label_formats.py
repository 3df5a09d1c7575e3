"""Labels come back from people as their spreadsheets write them."""

import json

import pyarrow as pa
import pyarrow.parquet
import pytest

from demur.base.errors import DataError
from demur.core.taxonomy import single
from demur.store.answers.labels import read_labels
from demur.store.results.monitor_file import read_feedback

ROWS = [
    {"id": 1, "token": "refuse", "label": "refusal"},
    {"id": 2, "token": "respond", "label": "compliance"},
]


def written(folder, name, rows):
    path = folder / name
    header = ",".join(rows[0])
    match path.suffix:
        case ".csv":
            lines = [
                header,
                *(",".join("" if v is None else str(v) for v in r.values()) for r in rows),
            ]
            path.write_text("\r\n".join(lines), encoding="utf-8-sig")
        case ".parquet":
            pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path)
        case ".json":
            path.write_text(json.dumps(rows), encoding="utf-16")
    return path


@pytest.mark.parametrize("name", ["l.csv", "l.parquet", "l.json"])
def test_labels_and_feedback_are_read_alike_from_every_format(tmp_path, name):
    found = read_labels(written(tmp_path, name, ROWS), ("respond", "refuse"))
    assert found.verdicts == {("1", 1): "refusal", ("2", 0): "compliance"}
    said = [{"id": r["id"], "label": r["token"]} for r in ROWS]
    found = read_feedback(written(tmp_path, name, said), single())
    assert {i: row.label for i, row in found.items()} == {"1": "refuse", "2": "respond"}


def test_drawn_texts_may_come_back_as_a_table_with_blank_cells(tmp_path):
    key = [
        {"id": f"text-{n}", "prompt": f"p{n}", "token": "refuse", "stratum": "s", "of": 9}
        for n in (1, 2)
    ]
    (tmp_path / "l.key.jsonl").write_text("".join(json.dumps(k) + "\n" for k in key))
    drawn = [
        {"id": "text-1", "request": "a", "answer": "b", "label": "refusal"},
        {"id": "text-2", "request": "c", "answer": "d", "label": None},
    ]
    found = read_labels(written(tmp_path, "l.csv", drawn), ("respond", "refuse"))
    assert (found.verdicts, found.sizes) == ({("p1", 1): "refusal"}, (9,))


def test_a_wrong_label_of_a_table_is_named_by_line(tmp_path):
    path = written(tmp_path, "l.csv", [*ROWS, {"id": 3, "token": "respond", "label": "maybe"}])
    with pytest.raises(DataError, match=r"l\.csv:4: label"):
        read_labels(path, ("respond", "refuse"))
