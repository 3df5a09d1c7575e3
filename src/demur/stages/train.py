"""train: the training split and a base model -> a checkpoint that says why before it declines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from demur.core.ports import Progress, Scorer, TrainedModel, Trainer, no_progress
from demur.core.taxonomy import Taxonomy
from demur.core.training import TrainSettings
from demur.store.files import digest_file, digest_json
from demur.store.model_file import FILE_NAME, read_model_file, write_model_file
from demur.store.policy_file import FingerprintRow, TaxonomyRow
from demur.store.rows import read_examples
from demur.store.run import RunFolder

Config = TrainSettings


def run(
    settings: Config, taxonomy: Taxonomy, trainer: Trainer, folder: RunFolder, progress: Progress = no_progress
) -> TrainedModel | None:
    """Train into <run>/train/model, or return what is there if it was made with these settings from these rows.

    None on a process that is not the first of several: that one alone writes. Raises ArtifactError if the data stage
    has not finished, EngineError if a control token could not be trained.
    """
    folder.require("data")
    made_from = {"data/train": digest_file(folder.split("train"))}
    plain = asdict(settings) | {"taxonomy": _taxonomy_row(taxonomy)}
    for how in ("processes", "save_every"):  # neither changes what is learnt
        del plain[how]
    if folder.is_current("train", plain, made_from):
        return read_model_file(folder.model).to_core()
    examples = read_examples(folder.split("train"))
    trained = trainer.train(examples, taxonomy, folder.stage("train"), progress)
    if trained is None:
        return None
    write_model_file(folder.model, taxonomy, trained, made_from["data/train"])
    files = sorted(p for p in folder.model.rglob("*") if p.is_file())
    folder.finish("train", plain, made_from, files)
    return trained


def adopt(options: Mapping[str, Any], taxonomy: Taxonomy, scorer: Scorer, folder: RunFolder) -> TrainedModel:
    """Take a model that others trained: write its demur.json and nothing else, or return what is there.

    options: what it was made with, for the receipt. Raises ArtifactError if the data stage has not finished.
    """
    folder.require("data")
    made_from = {
        "data/train": digest_file(folder.split("train")),
        "model": digest_json(FingerprintRow.from_core(scorer.fingerprint).model_dump(mode="json")),
    }
    plain: dict[str, object] = {"adopted": dict(options), "taxonomy": _taxonomy_row(taxonomy)}
    if not folder.is_current("train", plain, made_from):
        trained = TrainedModel(fingerprint=scorer.fingerprint, steps=0, history=(), row_change=())
        write_model_file(folder.model, taxonomy, trained, made_from["data/train"])
        folder.finish("train", plain, made_from, [folder.model / FILE_NAME])
    return read_model_file(folder.model).to_core()


def _taxonomy_row(taxonomy: Taxonomy) -> dict[str, Any]:
    return TaxonomyRow.from_core(taxonomy).model_dump(mode="json")
