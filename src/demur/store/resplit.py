"""Guards around new splits of a run whose model was trained on the old ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from demur.base.errors import ArtifactError, DataError
from demur.base.files import digest_bytes, digest_file
from demur.core.example import Example
from demur.core.training.seen import seen_rows
from demur.store.models.seen_file import SEEN, seen_by_run
from demur.store.models.upgrade import upgrade_model_file
from demur.store.run import RunFolder


def ensure_seen_record(folder: RunFolder) -> None:
    """Write seen.npz of an older run's model before the train split, its source, changes."""
    if folder.receipt("train") is not None and not (folder.model / SEEN).exists():
        # a damaged model needs none: it is trained again before anybody scores
        with suppress(ArtifactError):
            upgrade_model_file(folder)


def require_same_splits(
    folder: RunFolder, files: Mapping[Path, bytes], held_out: Sequence[Example]
) -> None:
    """Raise DataError, naming rows, if the run holds a model that was trained here and a split
    would change.

    files: the bytes of the new splits. held_out: the rows of the new calibrate and test splits.
    """
    # An adopted model was trained elsewhere: the splits of this run taught it nothing.
    trained = folder.receipt("train")
    if trained is None or "adopted" in trained.settings:
        return
    changed = [
        path.stem
        for path, data in files.items()
        if not path.exists() or digest_file(path) != digest_bytes(data)
    ]
    if not changed:
        return
    found = seen_rows(seen_by_run(folder), held_out)
    moved = (
        f"the model was trained on {found.text} of the new calibrate and test splits; "
        if found
        else ""
    )
    raise DataError(
        f"{folder.root} holds a model, and the splits {', '.join(changed)} would change under it: "
        f"{moved}nothing was written",
        "choose another folder (--out), or make all of it again: demur data --again, then demur "
        "train; or demur run --from data",
    )
