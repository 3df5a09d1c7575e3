import json

import pytest

from demur.base.errors import ArtifactError
from demur.base.files import write_text
from demur.store.run import STAGES, RunFolder


@pytest.fixture
def folder(tmp_path):
    run = RunFolder(tmp_path)
    write_text(run.split("train"), "rows\n")
    write_text(run.split("test"), "more\n")
    run.finish(
        "data",
        {"seed": 1, "shares": [0.1]},
        {"source": "sha256:a"},
        [run.split("train"), run.split("test")],
    )
    return run


def test_a_finished_stage_is_current_for_the_same_settings_and_inputs(folder):
    assert folder.is_current("data", {"shares": [0.1], "seed": 1}, {"source": "sha256:a"})
    assert folder.require("data").made.keys() == {"data/train.jsonl", "data/test.jsonl"}


@pytest.mark.parametrize(
    ("settings", "made_from"),
    [
        ({"seed": 2, "shares": [0.1]}, {"source": "sha256:a"}),
        ({"seed": 1}, {"source": "sha256:a"}),
        ({"seed": 1, "shares": [0.1]}, {"source": "sha256:b"}),
        ({"seed": 1, "shares": [0.1]}, {}),
    ],
)
def test_other_settings_or_inputs_make_it_stale(folder, settings, made_from):
    assert not folder.is_current("data", settings, made_from)


def test_a_stage_without_receipt_is_not_finished(folder):
    assert folder.receipt("train") is None
    assert not folder.is_current("train", {}, {})
    with pytest.raises(ArtifactError, match="train is not finished") as e:
        folder.require("train")
    assert "demur train" in e.value.hint


def test_a_changed_file_is_named(folder):
    folder.split("test").write_text("other\n")
    assert not folder.is_current("data", {"seed": 1, "shares": [0.1]}, {"source": "sha256:a"})
    with pytest.raises(ArtifactError, match=r"test\.jsonl has changed"):
        folder.require("data")


def test_a_missing_file_is_named(folder):
    folder.split("test").unlink()
    assert not folder.is_current("data", {"seed": 1, "shares": [0.1]}, {"source": "sha256:a"})
    with pytest.raises(ArtifactError, match=r"test\.jsonl is missing"):
        folder.require("data")


@pytest.mark.parametrize(
    "damage", [lambda t: t[:30], lambda t: "{}", lambda t: t.replace("receipt/1", "receipt/9")]
)
def test_a_damaged_receipt_is_named(folder, damage):
    path = folder.stage("data") / "made.json"
    path.write_text(damage(path.read_text()))
    with pytest.raises(ArtifactError, match=r"made\.json"):
        folder.receipt("data")


def test_the_receipt_says_what_it_was_made_from(folder):
    receipt = json.loads((folder.stage("data") / "made.json").read_text())
    assert receipt["format"] == "demur.receipt/1"
    assert (receipt["stage"], receipt["made_from"]) == ("data", {"source": "sha256:a"})
    assert all(digest.startswith("sha256:") for digest in receipt["made"].values())


def test_every_path_lies_in_the_folder_of_its_stage(tmp_path):
    run = RunFolder(tmp_path)
    paths = [
        run.split("train"),
        run.model,
        run.scores("test"),
        run.policy,
        run.branches,
        run.report,
    ]
    assert [p.relative_to(tmp_path).parts[0] for p in paths] == list(STAGES)
    assert run.metrics.parent == run.branches.parent
