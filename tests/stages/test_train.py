"""The train stage: trains once, and knows when what is there will do."""

import json
from dataclasses import dataclass, field, replace

import pytest
from tests.fake_run import Rows, examples

from demur.base.errors import ArtifactError, ConfigError
from demur.core.ports import HARVEST, Origin, TrainedModel, no_progress
from demur.core.taxonomy import coconot, single
from demur.core.training.learning_rows import learning_rows
from demur.core.training.seen import seen_rows
from demur.core.training.settings import TrainSettings, tiny
from demur.core.training.summary import taught_to_turn_back
from demur.core.training.turn_back import TurnBack
from demur.engines.fake.engine import FakeEngine
from demur.stages import data, train
from demur.store.models.model_file import read_model_file, require_whole
from demur.store.models.seen_file import seen_by_run
from demur.store.rows import read_examples
from demur.store.run import RunFolder


@dataclass
class Apprentice:
    """A trainer that writes a file and counts how often it was asked."""

    first: bool = True
    origin: Origin | None = None
    asked: list[int] = field(default_factory=list)
    prefixes: int = 0  # rows that had one, the last time

    def train(self, rows, taxonomy, folder, progress=no_progress):
        self.asked.append(len(rows))
        self.prefixes = sum(bool(e.prefix) for e in rows)
        if not self.first:
            return None
        (folder / "model").mkdir(parents=True, exist_ok=True)
        (folder / "model" / "model.safetensors").write_bytes(b"weights")
        engine = FakeEngine(taxonomy=taxonomy)
        return TrainedModel(
            fingerprint=engine.fingerprint,
            steps=1,
            history=(),
            row_change=(1.0,) * 6,
            origin=self.origin,
        )


@pytest.fixture
def folder(tmp_path):
    run = RunFolder(tmp_path)
    data.run(data.Config(), coconot(), {"rows": Rows(examples(every=8))}, run)
    return run


def test_a_model_that_is_there_is_not_trained_again_however_many_processes_are_asked_for(folder):
    apprentice = Apprentice()
    first = train.run(tiny(), coconot(), apprentice, folder)
    again = train.run(replace(tiny(), processes=2, save_every=7), coconot(), apprentice, folder)
    assert again == first
    assert len(apprentice.asked) == 1
    assert read_model_file(folder.model).taxonomy == coconot()


@pytest.mark.parametrize("changed", ["settings", "taxonomy", "rows", "weights"])
def test_whatever_changes_the_model_trains_it_again(folder, changed):
    apprentice = Apprentice()
    train.run(tiny(), coconot(), apprentice, folder)
    settings, taxonomy = tiny(), coconot()
    if changed == "settings":
        settings = TrainSettings(base="somewhere")
    if changed == "taxonomy":
        taxonomy = single()
    if changed == "rows":
        data.resplit(data.Config(), coconot(), {"rows": Rows(examples(every=5))}, folder)
    if changed == "weights":
        (folder.model / "model.safetensors").write_bytes(b"other")
    train.run(settings, taxonomy, apprentice, folder)
    assert len(apprentice.asked) == 2


def test_a_process_that_is_not_the_first_writes_nothing(folder):
    assert train.run(tiny(), coconot(), Apprentice(first=False), folder) is None
    assert folder.receipt("train") is None


def test_without_data_there_is_nothing_to_train_on(tmp_path):
    with pytest.raises(ArtifactError, match="is not finished"):
        train.run(tiny(), coconot(), Apprentice(), RunFolder(tmp_path))


def test_a_model_that_others_trained_is_adopted_once_and_anew_when_it_is_another(folder):
    options = {"engine": "guard-hf", "model": "somewhere"}
    first = train.adopt(options, coconot(), FakeEngine(taxonomy=coconot()), folder)
    written = (folder.stage("train") / "made.json").stat().st_mtime_ns
    assert first.steps == 0
    assert first.fingerprint == FakeEngine(taxonomy=coconot()).fingerprint
    assert sorted(p.name for p in folder.model.iterdir()) == ["demur.json", "seen.npz"]
    assert train.adopt(options, coconot(), FakeEngine(taxonomy=coconot()), folder) == first
    assert (folder.stage("train") / "made.json").stat().st_mtime_ns == written
    other = train.adopt(options, coconot(), FakeEngine(taxonomy=coconot(), seed=1), folder)
    assert other.fingerprint != first.fingerprint
    folder.require("train")


def test_nothing_is_adopted_for_rows_that_are_not_there(tmp_path):
    with pytest.raises(ArtifactError, match="data is not finished"):
        train.adopt({}, coconot(), FakeEngine(taxonomy=coconot()), RunFolder(tmp_path))


def test_a_record_of_all_rows_lies_beside_the_weights_and_everybody_may_read_them(folder):
    train.run(tiny(), coconot(), Apprentice(), folder)
    rows = read_examples(folder.split("train"))
    assert len(seen_rows(seen_by_run(folder), rows).how) == len(rows)
    assert {p.stat().st_mode & 0o777 for p in folder.model.iterdir()} == {0o644}
    assert sorted(p.name for p in folder.stage("train").iterdir()) == ["made.json", "model"]
    require_whole(folder.model)


def test_prompts_that_rewrites_made_are_seen_as_well(folder):
    settings = replace(tiny(), rewrites=("padding",), rewritten_share=0.2, validation_share=0.2)
    train.run(settings, coconot(), Apprentice(), folder)
    rows = read_examples(folder.split("train"))
    learnt, aside = learning_rows(rows, settings)
    assert {e.id for e in rows} < {e.id for e in (*learnt, *aside)}
    elsewhere = [replace(e, source="elsewhere", group=None) for e in (*learnt, *aside)]
    assert len(seen_rows(seen_by_run(folder), elsewhere).how) == len(elsewhere)


def test_rows_that_a_model_had_elsewhere_are_recorded_without_training(folder, tmp_path):
    apprentice = Apprentice()
    train.run(tiny(), coconot(), apprentice, folder)
    (tmp_path / "more.jsonl").write_text(
        '{"prompt": "An unheard-of question about nothing in particular"}\n'
    )
    before = seen_by_run(folder)
    record = train.add_seen([tmp_path / "more.jsonl"], folder)
    assert len(record.prompts) == len(before.prompts) + 1
    assert seen_by_run(folder) == record
    train.run(tiny(), coconot(), apprentice, folder)
    assert len(apprentice.asked) == 1


def test_a_training_that_fails_leaves_the_model_that_was_there(folder):
    class Full(Apprentice):
        def train(self, rows, taxonomy, folder, progress=no_progress):
            super().train(rows, taxonomy, folder, progress)
            raise ArtifactError("no space left")

    train.run(tiny(), coconot(), Apprentice(), folder)
    with pytest.raises(ArtifactError, match="no space"):
        train.run(replace(tiny(), seed=9), coconot(), Full(), folder)
    folder.require("train")


def test_a_base_that_demur_trained_keeps_name_and_licence_of_its_own_base(folder, tmp_path):
    public = Origin(model="Big", licence="mit", source="package big 1", digest="sha256:b")
    first = train.run(TrainSettings(base="big"), coconot(), Apprentice(origin=public), folder)
    assert first.origin == read_model_file(folder.model).to_core().origin == public
    base = str(folder.model)
    other = RunFolder(tmp_path / "other")
    data.run(data.Config(), coconot(), {"rows": Rows(examples(every=8))}, other)
    found = Origin(model=base, licence="not stated", source="a folder", digest="sha256:c")
    second = train.run(TrainSettings(base=base), coconot(), Apprentice(origin=found), other)
    assert (second.origin.model, second.origin.licence, second.origin.digest) == (
        "Big",
        "mit",
        "sha256:c",
    )
    assert base in second.origin.source


def test_a_file_of_prefixes_is_read_and_another_one_trains_again(folder, tmp_path):
    apprentice = Apprentice()
    refusals = [e for e in read_examples(folder.split("train")) if e.kind == "refusal"]
    path = tmp_path / "begun.jsonl"
    with pytest.raises(ConfigError, match=r"begun\.jsonl does not exist"):
        train.run(replace(tiny(), turn_back=TurnBack(prefixes=path)), coconot(), apprentice, folder)
    rows = [json.dumps({"prompt": e.text, "prefix": "Well, first"}) for e in refusals[:3]]
    for count in (2, 3):
        path.write_text("\n".join(rows[:count]))
        settings = replace(tiny(), turn_back=TurnBack(prefixes=path))
        for _ in range(2):
            train.run(settings, coconot(), apprentice, folder)
        assert apprentice.prefixes >= count
    assert len(apprentice.asked) == 2


def test_what_was_harvested_lies_beside_the_model_and_goes_with_it(folder):
    class Harvester(Apprentice):
        def train(self, rows, taxonomy, folder, progress=no_progress):
            trained = super().train(rows, taxonomy, folder, progress)
            (folder / HARVEST).write_text("{}\n")
            return replace(trained, details={"transition_rows": 3})

    trained = train.run(tiny(), coconot(), Harvester(), folder)
    assert taught_to_turn_back(read_model_file(folder.model).to_core().details)
    assert trained.details == {"transition_rows": 3}
    assert (folder.stage("train") / HARVEST).read_text() == "{}\n"
    (folder.stage("train") / HARVEST).write_text("other")
    with pytest.raises(ArtifactError, match=r"harvest\.jsonl"):
        folder.require("train", "train/harvest.jsonl")
    again = train.run(replace(tiny(), seed=4), coconot(), Apprentice(), folder)
    assert not taught_to_turn_back(again.details)
    assert not (folder.stage("train") / HARVEST).exists()
