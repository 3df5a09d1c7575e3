"""seen.npz: written beside the weights, read with suspicion, made again where an old run vouches
for it.
"""

import json

import pytest

from demur.base.errors import ArtifactError, ConfigError
from demur.base.files import digest_file
from demur.core.example import Example, Message
from demur.core.ports import TrainedModel
from demur.core.taxonomy import coconot
from demur.core.training.seen import Seen, seen_of, seen_rows
from demur.engines.fake.engine import FakeEngine
from demur.stages import calibrate
from demur.stages.train import add_seen
from demur.store.models.model_file import seal_model_file, write_model_file
from demur.store.models.seen_file import (
    SEEN,
    read_seen,
    seen_by_base,
    seen_by_files,
    seen_by_model,
    seen_by_run,
    write_seen,
)
from demur.store.rows import read_examples, write_examples
from tests.fake_run import engine_for, examples, prepare


def rows(count=5, tag=""):
    return [
        Example(
            id=f"{tag}{n}",
            source="s",
            split="train",
            messages=(
                Message(role="user", content=f"Please tell me about thing {tag}{n} and its uses"),
            ),
            kind="benign",
            group=f"s:{n}" if n % 2 else None,
        )
        for n in range(count)
    ]


def test_a_record_survives_its_file_and_gives_the_same_bytes_again(tmp_path):
    record = seen_of(rows())
    write_seen(tmp_path / "a.npz", record, "sha256:1")
    write_seen(tmp_path / "b.npz", read_seen(tmp_path / "a.npz", "sha256:1"), "sha256:1")
    assert read_seen(tmp_path / "a.npz") == record
    assert digest_file(tmp_path / "a.npz") == digest_file(tmp_path / "b.npz")
    assert read_seen_of(tmp_path, Seen()) == Seen()
    assert b"thing" not in (tmp_path / "a.npz").read_bytes()


def read_seen_of(folder, record):
    write_seen(folder / "c.npz", record, "m")
    return read_seen(folder / "c.npz")


@pytest.mark.parametrize("damage", ["cut", "text", "gone", "format"])
def test_a_damaged_record_is_named(tmp_path, damage):
    path = tmp_path / SEEN
    write_seen(path, seen_of(rows()), "sha256:1")
    whole = path.read_bytes()
    if damage == "format":
        whole = whole.replace(b"demur.seen/1", b"demur.seen/9")
    path.write_bytes(
        {"cut": whole[: len(whole) // 2], "text": b"rows", "gone": b"", "format": whole}[damage]
    )
    with pytest.raises(ArtifactError, match=SEEN):
        read_seen(path)


def test_a_record_of_other_weights_is_refused(tmp_path):
    write_seen(tmp_path / SEEN, seen_of(rows()), "sha256:1")
    with pytest.raises(ArtifactError, match="speaks of weights sha256:1"):
        read_seen(tmp_path / SEEN, "sha256:2")


@pytest.fixture
def run(tmp_path):
    """A run of before there were records."""
    some = examples(every=8)
    folder = prepare(tmp_path, some, engine_for(some))
    (folder.model / SEEN).unlink()
    seal_model_file(folder.model)
    folder.finish("train", {"base": "tiny"}, {}, [folder.model / "demur.json"])
    return folder


def test_an_old_run_whose_split_is_untouched_has_its_record_made_again(run):
    train, calibrate = (read_examples(run.split(s)) for s in ("train", "calibrate"))
    assert not (run.model / SEEN).exists()
    assert len(seen_rows(seen_by_run(run), train).how) == len(train)
    assert not seen_rows(seen_by_run(run), calibrate)
    assert seen_by_model(run.model) == seen_by_run(run)


def test_an_old_run_whose_split_is_another_has_lost_its_record(run):
    write_examples(run.split("train"), read_examples(run.split("train"))[1:])
    assert seen_by_run(run).missing == (str(run.model),)


def test_a_record_that_training_did_not_leave_is_refused(run):
    write_seen(run.model / SEEN, Seen(), engine_for(examples(every=8)).fingerprint.model_digest)
    with pytest.raises(ArtifactError, match=f"{SEEN} has changed"):
        seen_by_run(run)


def test_a_record_that_training_left_and_that_is_gone_is_missed_by_every_stage_after_it(tmp_path):
    some = examples(every=8)
    folder = prepare(tmp_path, some, engine_for(some))
    calibrate.run(calibrate.Config(goal="false_refusal <= 0.3"), engine_for(some).taxonomy, folder)
    add_seen([folder.split("calibrate")], folder)  # rows that no split of the training names
    with pytest.raises(ArtifactError, match="out of date"):
        folder.require_fresh("calibrate")
    (folder.model / SEEN).unlink()
    with pytest.raises(ArtifactError, match=f"{SEEN} is missing"):
        seen_by_run(folder)
    with pytest.raises(ArtifactError, match="out of date"):
        folder.require_fresh("calibrate")
    # nor does a model that begins as this one forget it
    moved = folder.model.rename(tmp_path / "base")
    with pytest.raises(ArtifactError, match=f"{SEEN} is missing"):
        seen_by_base(str(moved))


def model(folder, details=None):
    engine = FakeEngine(taxonomy=coconot())
    trained = TrainedModel(
        fingerprint=engine.fingerprint, steps=1, history=(), row_change=(), details=details or {}
    )
    write_model_file(folder, coconot(), trained, "sha256:elsewhere")
    return engine.fingerprint.model_digest


def test_rows_may_be_given_as_a_file_a_record_a_model_or_a_run(tmp_path, run):
    lines = [
        {"prompt": "Please tell me about thing 0 and its uses"},
        {"messages": [{"role": "user", "content": "Hi"}]},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    folder = tmp_path / "elsewhere"
    digest = model(folder)
    write_seen(folder / SEEN, seen_of(rows(3, "x")), digest)
    seal_model_file(folder)
    record = seen_by_files([tmp_path / "rows.jsonl", folder, folder / SEEN, run.root])
    assert seen_rows(record, rows(1)).how == {"0": "prompt"}
    assert len(seen_rows(record, rows(3, "x")).how) == 3
    assert seen_rows(record, read_examples(run.split("train")))
    with pytest.raises(ConfigError, match="does not exist"):
        seen_by_files([tmp_path / "none.jsonl"])


def test_a_model_without_a_record_outside_a_run_has_lost_it(tmp_path):
    model(tmp_path / "m")
    assert seen_by_model(tmp_path / "m").missing == (str(tmp_path / "m"),)
