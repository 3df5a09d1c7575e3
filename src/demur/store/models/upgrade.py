"""Upgrades of model folders: files and keys that an earlier demur did not write are added, where
the run's receipts vouch for them.

1. The digest of the model's settings files: the receipt of the train stage names each of them, so
   they are as training left them.
2. The record of the rows that it was trained on: if the train split is still the one that
   demur.json names.
Scores and policies of before name no settings; they are made again by score and calibrate.
"""

from __future__ import annotations

import os
from dataclasses import replace

from demur.base.boundary import read_json
from demur.base.errors import ArtifactError
from demur.core.training.checkpoint import NOISE, config_digest
from demur.store.models.model_file import ModelFile, read_model_file, seal_model_file
from demur.store.models.seen_file import SEEN, seen_by_model, write_seen
from demur.store.run import RunFolder


def upgrade_model_file(folder: RunFolder) -> ModelFile:
    """Add what newer versions need to demur.json of a run's finished train stage, and return it. It
    is written unless the folder is read-only.

    Raises ArtifactError if the stage is unfinished or a file of its model has changed.
    """
    receipt = folder.require("train")
    file = read_model_file(folder.model)
    fingerprint = file.fingerprint
    if fingerprint.config_digest is None and not fingerprint.predicted:
        fingerprint = replace(fingerprint, config_digest=_settings_of(folder, receipt.made))
    record = (
        None
        if (folder.model / SEEN).exists()
        else seen_by_model(folder.model, folder.split("train"))
    )
    if record is not None and record.missing:
        record = None  # nothing is known, and nothing is written that would say otherwise
    if fingerprint == file.fingerprint and record is None:
        return file
    file = file.model_copy(update={"fingerprint": fingerprint})
    # The receipt is written again with the new digests: the files changed on purpose.
    if os.access(folder.model, os.W_OK):
        if record is not None:
            write_seen(folder.model / SEEN, record, fingerprint.model_digest)
        seal_model_file(folder.model, file)
        made = {folder.root / name for name in receipt.made} | {folder.model / SEEN}
        folder.finish(
            "train",
            receipt.settings,
            receipt.made_from,
            sorted(path for path in made if path.exists()),
        )
    return file


def _settings_of(folder: RunFolder, made: dict[str, str]) -> str | None:
    """The digest of the settings files; None where there are none. Raises ArtifactError on a file
    that the receipt does not name.
    """
    # A file that somebody put there after training would pass for the model's own otherwise.
    paths = {name: folder.model / name for name in NOISE if (folder.model / name).exists()}
    for path in paths.values():
        if str(path.relative_to(folder.root)) not in made:
            raise ArtifactError(
                f"{path} is not of this run's training",
                f"take it away, or: demur train {folder.root}",
            )
    return config_digest({name: read_json(path) for name, path in paths.items()})
