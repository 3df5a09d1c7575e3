"""Guards around new splits of a run whose model was trained on the old ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from demur.base.errors import ArtifactError, DataError
from demur.base.files import digest_bytes, digest_file
from demur.core.example import Example, Split
from demur.core.training.seen import seen_rows
from demur.store.models.seen_file import SEEN, seen_by_run
from demur.store.models.upgrade import upgrade_model_file
from demur.store.rows import read_examples
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
    would change, other than by further rows to calibrate and test on.

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
    # The model stays what it is where it has seen none of the rows that come, and none leaves.
    if not found and "train" not in changed and _all_stay(folder, held_out):
        return
    moved = (
        f"the model was trained on {found.text} of the new calibrate and test splits; "
        if found
        else ""
    )
    raise DataError(
        f"{folder.root} holds a model, and the splits {', '.join(changed)} would change under it: "
        f"{moved}nothing was written",
        "to add rows only, give the new ones the split 'calibrate' or 'test' and change no other; "
        "else choose another folder (--out), or make all of it again: demur data --again, then "
        "demur train; or demur run --from data",
    )


def _all_stay(folder: RunFolder, held_out: Sequence[Example]) -> bool:
    """Whether every row of the old calibrate and test splits is in the new ones, in its split and
    labelled as it was. Groups may have grown.
    """
    splits: tuple[Split, ...] = ("calibrate", "test")
    old = Counter(_mark(e) for split in splits for e in read_examples(folder.split(split)))
    return not old - Counter(map(_mark, held_out))


def _mark(example: Example) -> tuple[object, ...]:
    return (example.split, example.messages, example.kind, example.label)
