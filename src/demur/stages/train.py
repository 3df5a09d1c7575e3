"""train: the training split and a base model -> a checkpoint that says why before it declines.

1. The trainer writes into train/work; the model of an earlier training stays meanwhile.
2. Of rows to be refused, those with a *prefix* (the beginning of an answer) teach it to turn back:
   demur.core.training.turn_back. A file of prefixes is read here; harvested ones lie beside the
   model afterwards, as digests unless `keep_text` says otherwise.
3. demur.json and seen.npz are written beside the weights. seen.npz holds the digests of all rows
   that the weights were trained on: the run's own, those of its base, and those named in
   `train.seen`. No promise may count such a row.
4. The finished folder takes the place of train/model, and the receipt is written last.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from demur.base.boundary import dumped
from demur.base.errors import ConfigError
from demur.base.files import digest_file, digest_json, make_readable
from demur.core.example import SPLITS, Example, Split
from demur.core.ports import HARVEST, Origin, Progress, Scorer, TrainedModel, Trainer, no_progress
from demur.core.taxonomy import Taxonomy
from demur.core.training.learning_rows import learning_rows
from demur.core.training.seen import Seen, merge_records, seen_of, without_missing
from demur.core.training.settings import TrainSettings, learnt
from demur.store.fingerprint_json import fingerprint_json
from demur.store.models.model_file import (
    FILE_NAME,
    read_model_file,
    require_whole,
    seal_model_file,
    write_model_file,
)
from demur.store.models.seen_file import SEEN, seen_by_base, seen_by_files, seen_by_run, write_seen
from demur.store.prefixes_file import add_prefixes
from demur.store.rows import read_examples
from demur.store.run import Receipt, RunFolder

Config = TrainSettings


def run(
    settings: Config,
    taxonomy: Taxonomy,
    trainer: Trainer,
    folder: RunFolder,
    progress: Progress = no_progress,
) -> TrainedModel | None:
    """Train into <run>/train/model, or return the model there if it was made with these settings
    from these rows.

    None on a process that is not the first of several: that one alone writes. Raises ArtifactError
    if the data stage has not finished or a base's record is damaged, EngineError if a control token
    could not be trained.
    """
    folder.require("data")
    plain = _plain(settings, taxonomy)
    made_from = _inputs(settings, folder)
    if folder.is_current("train", plain, made_from):
        return read_model_file(folder.model).to_core()
    examples = _with_prefixes(settings, folder)
    # Read before training: a damaged record must not come to light after hours of it.
    before = base_seen(settings)
    work = folder.stage("train") / "work"
    trained = trainer.train(examples, taxonomy, work, progress)
    if trained is None:
        return None
    trained = replace(trained, origin=_origin(settings, trained.origin))
    # Rewrites are prompts that the weights have seen, too.
    every = list(chain(*learning_rows(examples, settings))) if settings.rewrites else examples
    write_seen(
        work / "model" / SEEN,
        merge_records([seen_of(every), before]),
        trained.fingerprint.model_digest,
    )
    write_model_file(work / "model", taxonomy, trained, made_from["data/train"])
    _take_over(folder, work / "model")
    (folder.stage("train") / HARVEST).unlink(missing_ok=True)  # of the model before
    if (work / HARVEST).exists():
        (work / HARVEST).replace(folder.stage("train") / HARVEST)
    _finish(folder, plain, made_from)
    shutil.rmtree(work, ignore_errors=True)
    return trained


def adopt(
    options: Mapping[str, Any],
    taxonomy: Taxonomy,
    scorer: Scorer,
    folder: RunFolder,
    seen: Sequence[Path] = (),
) -> TrainedModel:
    """Register a model that others trained: write demur.json and seen.npz for it, or return the
    model there.

    options: the settings that its engine is made with, for the receipt. seen: files of rows that it
    was trained on; its record says that there are unknown others. Raises ArtifactError if the data
    stage has not finished.
    """
    folder.require("data")
    made_from = {
        "data/train": digest_file(folder.split("train")),
        "model": digest_json(fingerprint_json(scorer.fingerprint)),
    }
    plain: dict[str, object] = {"adopted": dict(options), "taxonomy": dumped(taxonomy)}
    if not folder.is_current("train", plain, made_from):
        # No steps and no history: demur did not train it.
        trained = TrainedModel(fingerprint=scorer.fingerprint, steps=0, history=(), row_change=())
        name = " ".join(str(options[key]) for key in ("engine", "model") if key in options)
        record = merge_records([Seen(unknown=(name or "the model",)), seen_by_files(seen)])
        write_seen(folder.model / SEEN, record, trained.fingerprint.model_digest)
        write_model_file(folder.model, taxonomy, trained, made_from["data/train"])
        _finish(folder, plain, made_from)
    return read_model_file(folder.model).to_core()


def add_seen(paths: Sequence[Path], folder: RunFolder) -> Seen:
    """Add rows to the record of rows that the run's model has seen, without training; returns the
    record.

    A record that was missing counts as given from then on. Raises ArtifactError before training has
    finished.
    """
    receipt = folder.require("train")
    # demur.json names the digest of seen.npz, and the receipt names both: all are made again.
    record = merge_records([without_missing(seen_by_run(folder)), seen_by_files(paths)])
    write_seen(folder.model / SEEN, record, read_model_file(folder.model).fingerprint.model_digest)
    seal_model_file(folder.model)
    _finish(folder, receipt.settings, receipt.made_from)
    return record


def is_trained(settings: Config, taxonomy: Taxonomy, folder: RunFolder) -> bool:
    """Whether the run's model was trained with these settings, from any rows."""
    receipt = folder.receipt("train")
    return receipt is not None and digest_json(receipt.settings) == digest_json(
        _plain(settings, taxonomy)
    )


def base_seen(settings: Config) -> Seen:
    """The record of rows that the base model was trained on. Raises ArtifactError if its folder or
    record is damaged.
    """
    if (Path(settings.base) / FILE_NAME).exists():
        require_whole(Path(settings.base))
    base = seen_by_base(settings.base)
    return (
        merge_records([without_missing(base), seen_by_files(settings.seen)])
        if settings.seen
        else base
    )


def _origin(settings: Config, found: Origin | None) -> Origin | None:
    """The origin of the base. A base that demur trained keeps name and licence of the model that it
    was made from.
    """
    folder = Path(settings.base)
    if found is None or not (folder / FILE_NAME).exists():
        return found
    before = read_model_file(folder).to_core().origin
    if before is None:
        return found
    source = f"{settings.base}, trained by demur from {before.source}"
    return replace(found, model=before.model, licence=before.licence, source=source)


def _plain(settings: Config, taxonomy: Taxonomy) -> dict[str, object]:
    """The settings that change the weights, for the receipt."""
    return learnt(settings) | {"taxonomy": dumped(taxonomy)}


def _inputs(settings: Config, folder: RunFolder) -> dict[str, str]:
    """Digests of the rows and, where the base is a model of demur's in a folder, of that.

    A receipt of before bases were recorded is not held against its run: training again is dear.
    """
    made_from = {"data/train": digest_file(folder.split("train"))}
    receipt: Receipt | None = folder.receipt("train")
    if (Path(settings.base) / FILE_NAME).exists() and not (
        receipt and "base" not in receipt.made_from
    ):
        made_from["base"] = digest_file(Path(settings.base) / FILE_NAME)
    if (path := _prefixes_file(settings)) is not None:
        made_from["prefixes"] = digest_file(path)
    return made_from


def _with_prefixes(settings: Config, folder: RunFolder) -> list[Example]:
    """The training rows, with the prefixes of the file that the settings name, if they do."""
    examples = read_examples(folder.split("train"))
    if (path := _prefixes_file(settings)) is None:
        return examples
    held_out: dict[Split, list[Example]] = {
        split: read_examples(folder.split(split)) for split in SPLITS if split != "train"
    }
    return add_prefixes(path, examples, held_out)


def _prefixes_file(settings: Config) -> Path | None:
    path = settings.turn_back.prefixes if settings.turn_back is not None else None
    if not isinstance(path, Path):
        return None
    if not path.exists():
        raise ConfigError(
            f"train.turn_back.prefixes = {path} does not exist",
            'name a file of prompts and prefixes, or set "rows" or "harvest"',
        )
    return path


def _take_over(folder: RunFolder, made: Path) -> None:
    """Move a finished model folder to where the run has its model. The old one stays until then."""
    make_readable(made)
    # Two renames: a process killed between them loses no model, it lies in model.old.
    old = folder.stage("train") / "model.old"
    shutil.rmtree(old, ignore_errors=True)
    if folder.model.exists():
        folder.model.rename(old)
    made.rename(folder.model)
    shutil.rmtree(old, ignore_errors=True)


def _finish(folder: RunFolder, settings: dict[str, object], made_from: Mapping[str, str]) -> None:
    harvest = folder.stage("train") / HARVEST
    files = sorted(p for p in (*folder.model.rglob("*"), harvest) if p.is_file())
    folder.finish("train", settings, made_from, files)
