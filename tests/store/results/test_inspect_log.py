import json
import zipfile

import pytest

from demur.base.errors import ArtifactError, DataError
from demur.store.results.item_results import read_items


def sample(name, value, epoch=1, **more):
    return {
        "id": name,
        "epoch": epoch,
        "scores": {"gold": {"value": value}},
        "metadata": {},
        **more,
    }


def log(*samples, status="success"):
    return {
        "version": 2,
        "status": status,
        "eval": {"task": "demur/ability"},
        "samples": list(samples),
    }


def write(path, value):
    """The same log, in either format."""
    if path.suffix == ".json":
        path.write_text(json.dumps(value))
        return path
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(
            "header.json", json.dumps({k: v for k, v in value.items() if k != "samples"})
        )
        archive.writestr("summaries.json", "[]")
        for s in value["samples"]:
            archive.writestr(f"samples/{s['id']}_epoch_{s['epoch']}.json", json.dumps(s))
    return path


@pytest.mark.parametrize("suffix", [".json", ".eval"])
def test_both_formats_give_the_same_items(tmp_path, suffix):
    made = log(
        sample("a", "C"),
        sample("b", "I", metadata={"group": "g"}),
        sample("b", 1, epoch=2),
        sample("c", 0.0),
    )
    found = {i.id: i for i in read_items(write(tmp_path / f"x{suffix}", made))}
    assert {name: (i.task, i.correct, i.group) for name, i in found.items()} == {
        "a": ("demur/ability", True, "a"),
        "b": ("demur/ability", False, "g"),
        "b in epoch 2": ("demur/ability", True, "b"),
        "c": ("demur/ability", False, "c"),
    }


def test_a_folder_of_logs_is_read_whole(tmp_path):
    write(tmp_path / "one.eval", log(sample("a", "C")))
    write(tmp_path / "two.eval", log(sample("b", "I")))
    assert [i.id for i in read_items(tmp_path)] == ["a", "b"]


def test_of_several_scorers_the_named_one_counts(tmp_path):
    both = sample("a", "C") | {"scores": {"gold": {"value": "C"}, "other": {"value": "I"}}}
    path = write(tmp_path / "x.json", log(both))
    assert not read_items(path, "other")[0].correct
    with pytest.raises(DataError, match="'a' has scores by gold, other"):
        read_items(path)


@pytest.mark.parametrize(
    ("made", "named"),
    [
        (log(sample("a", "C"), status="error"), "status is 'error'"),
        (log(sample("a", None)), "a score of None"),
        (log(sample("a", 0.5)), "a score of 0.5"),
        (log(sample("a", "C") | {"scores": {}}), "scores by nobody"),
        (log(), "holds no results"),
    ],
)
def test_what_is_neither_right_nor_wrong_is_named_and_never_a_wrong_answer(tmp_path, made, named):
    with pytest.raises(DataError, match=named):
        read_items(write(tmp_path / "x.json", made))


def test_a_damaged_log_is_named(tmp_path):
    (tmp_path / "x.eval").write_text("no archive")
    with pytest.raises(ArtifactError, match=r"x\.eval cannot be read"):
        read_items(tmp_path / "x.eval")
    with zipfile.ZipFile(tmp_path / "y.eval", "w") as archive:
        archive.writestr("_journal/start.json", "{}")
    with pytest.raises(DataError, match=r"no header\.json"):
        read_items(tmp_path / "y.eval")
