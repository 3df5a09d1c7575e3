"""The ledger: lines are only added, rows are told by their prompts, and damage is named."""

import json
import os

import numpy as np
import pytest

from demur.base.errors import ArtifactError, ConfigError
from demur.core.example import Example, Message
from demur.store.policies import ledger_file
from demur.store.policies.ledger_file import (
    Ledger,
    add_attempt,
    marks_digest,
    marks_of,
    marks_of_texts,
    read_ledger,
    share_ledger,
)
from demur.store.run import RunFolder
from tests.core.goals.test_attempts import attempt as made


def attempt(key, marks):
    return ledger_file.Attempt(
        **{f: getattr(made(key), f) for f in made(key).__dataclass_fields__}
        | {"rows": marks_digest(marks)}
    )


def example(text, row="r"):
    messages = (Message(role="user", content=text),)
    return Example(id=row, source="s", messages=messages, kind="benign")


def written(path, *sets):
    for n, texts in enumerate(sets):
        marks = marks_of_texts(texts)
        add_attempt(path, read_ledger(path), attempt(str(n), marks), marks)
    return read_ledger(path)


def test_attempts_are_read_back_in_order_and_a_set_of_rows_is_written_once(tmp_path):
    path = tmp_path / "data" / "ledger.jsonl"
    assert read_ledger(path).attempts == ()
    ledger = written(path, ["a", "b"], ["b", "a"], ["c"])
    assert [a.key for a in ledger.attempts] == ["0", "1", "2"]
    assert len(path.read_text().splitlines()) == 5


def test_attempts_share_rows_where_they_have_a_prompt_in_common(tmp_path):
    ledger = written(tmp_path / "l", ["a", "b"], ["b", "c"], ["d"])
    assert [a.key for a in ledger.sharing(marks_of_texts(["b", "x"]))] == ["0", "1"]
    assert ledger.sharing(marks_of_texts(["x"])) == ()


def test_a_row_is_told_by_its_prompt_and_not_by_its_id():
    assert marks_of([example("hello", "a")]) == marks_of([example("hello", "b")])
    assert marks_of([example("hello")]) != marks_of([example("goodbye")])


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (lambda text: text[:-20], "line 5: it is cut off"),
        (lambda text: text.replace('"seed": 0', '"seed": many', 1), "line 2: "),
        (lambda text: text.replace('"seed": 0', '"sed": 0', 1), "unknown key"),
        (lambda text: text.replace("sha256:", "sha256:0", 1), "not those of their digest"),
        (lambda text: "\n".join(text.split("\n")[1:]), "line 1: its rows stand on no line before"),
        (lambda text: text.replace('"marks": "', '"marks": "*', 1), "no base64"),
        (lambda text: "[]\n" + text, "line 1: "),
        (lambda text: text.replace("demur.ledger/1", "demur.ledger/9", 1), "line 1: it: format"),
    ],
)
def test_a_damaged_line_is_named_with_what_to_do(tmp_path, damage, fault):
    path = tmp_path / "ledger.jsonl"
    written(path, ["a", "b"], ["b", "a"], ["c"])
    path.write_text(damage(path.read_text()))
    with pytest.raises(ArtifactError) as e:
        read_ledger(path)
    assert fault in e.value.message
    assert str(path) in e.value.message
    assert "label new rows" in e.value.hint


def test_a_line_that_does_not_fit_on_the_disk_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "ledger.jsonl"
    written(path, ["a"])
    before, real = path.read_bytes(), os.write
    monkeypatch.setattr(os, "write", lambda handle, data: real(handle, data[:30]))
    with pytest.raises(ArtifactError, match="half a line") as e:
        written(path, ["b"])
    assert "not certified" in e.value.hint
    assert path.read_bytes() == before


def test_a_million_rows_take_a_few_megabytes(tmp_path):
    marks = np.arange(1_000_000, dtype=np.uint64)
    path = tmp_path / "ledger.jsonl"
    add_attempt(path, Ledger(), attempt("0", marks), marks)
    assert path.stat().st_size < 12e6
    assert len(read_ledger(path).marks[marks_digest(marks)]) == 1_000_000


def test_each_line_is_json_with_its_format(tmp_path):
    path = tmp_path / "ledger.jsonl"
    written(path, ["a"])
    values = [json.loads(line) for line in path.read_text().splitlines()]
    assert {v["format"] for v in values} == {"demur.ledger/1"}


def test_a_run_that_shares_a_ledger_sees_and_adds_to_its_attempts(tmp_path):
    shared, folder = tmp_path / "first" / "ledger.jsonl", RunFolder(tmp_path / "run")
    (folder.root / "data").mkdir(parents=True)
    own = folder.root / "data" / "ledger.jsonl"
    for _ in range(2):  # linked once, and found linked
        share_ledger(own, shared, marks_of_texts(["a"]))
    written(folder.ledger, ["a"])
    assert folder.ledger == shared
    assert len(read_ledger(shared).attempts) == 1
    second = RunFolder(tmp_path / "second")
    (second.root / "data").mkdir(parents=True)
    share_ledger(second.root / "data" / "ledger.jsonl", shared, marks_of_texts(["a", "b"]))
    assert len(read_ledger(second.ledger).attempts) == 1


def test_a_ledger_of_other_data_is_refused_and_one_that_the_run_has_stays(tmp_path):
    shared, own = tmp_path / "shared.jsonl", tmp_path / "own.jsonl"
    written(shared, ["a", "b"], ["c"])
    with pytest.raises(
        ConfigError, match="of other data: none of its 2 attempts shares a row"
    ) as e:
        share_ledger(own, shared, marks_of_texts(["x"]))
    assert "leave calibrate.ledger out" in e.value.hint
    assert not own.exists()
    written(own, ["a"])
    with pytest.raises(ConfigError, match="holds 1 attempts already"):
        share_ledger(own, shared, marks_of_texts(["a"]))
