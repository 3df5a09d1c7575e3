"""seen.npz: digests of the rows that a model was trained on, beside demur.json. It holds no text,
and no code that reading runs.

1. Training writes it: its own rows, those of its base, and those that the settings name (`[train]
   seen`).
2. For a model without one (an earlier demur trained it) it is made from the train split, if that
   still has the digest that demur.json names. Otherwise the record is missing, and nothing is
   certified.
3. Stages call `seen_by_run` before they count a row.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from demur.base.boundary import Strict, validated
from demur.base.errors import ArtifactError, ConfigError
from demur.base.files import digest_file, write_bytes
from demur.core.example import Example, Split
from demur.core.predictor import PROMPTS
from demur.core.training.seen import (
    PROMPT_BYTES,
    Seen,
    WordDigests,
    merge_records,
    require_unseen,
    seen_of,
)
from demur.store.models.model_file import FILE_NAME, read_model_file
from demur.store.prompts_file import read_prompts
from demur.store.rows import read_examples
from demur.store.run import RunFolder

SEEN = "seen.npz"
FROM_NOTHING = ("tiny", PROMPTS)  # bases that bring no weights along


class _Head(Strict):
    """The part of the file that is JSON."""

    format: Literal["demur.seen/1"] = "demur.seen/1"
    model: str  # digest of the weights that it speaks of
    unknown: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


def write_seen(path: Path, seen: Seen, model_digest: str) -> None:
    """Write the record of the weights with this digest, atomically. The same record gives the same
    bytes.
    """
    # Sets of words differ in size, and .npz has no ragged arrays: all words in one array, beside it
    # the size of each set. A row has few distinct words on record, so that sizes fit into a byte.
    head = _Head(model=model_digest, unknown=seen.unknown, missing=seen.missing)
    words = sorted(tuple(sorted(w)) for w in seen.words)
    arrays: dict[str, Any] = {
        "head": np.frombuffer(head.model_dump_json().encode(), dtype=np.uint8),
        "prompts": _packed(seen.prompts),
        "groups": _packed(seen.groups),
        "ids": _packed(seen.ids),
        "words": np.array([w for some in words for w in some], dtype=np.uint32),
        "sizes": np.array([len(some) for some in words], dtype=np.uint8),
    }
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_bytes(path, buffer.getvalue())


def read_seen(path: Path, model_digest: str | None = None) -> Seen:
    """Read a record. model_digest: of the weights that it must speak of.

    Raises ArtifactError if it is damaged, of another format, or of another model.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            head = validated(_Head, json.loads(arrays["head"].tobytes()), str(path))
            sizes, flat = arrays["sizes"].tolist(), arrays["words"].tolist()
            # np.load checks each array; that the two fit together is checked here
            if sum(sizes) != len(flat):
                raise ValueError(f"{len(flat)} words for sets of {sum(sizes)} in all")
            packed = {}
            for name in ("prompts", "groups", "ids"):
                # "safe" refuses an array of larger numbers, which the cast would wrap silently
                raw = arrays[name].astype(np.uint8, casting="safe").tobytes()
                starts = range(0, len(raw), PROMPT_BYTES)
                packed[name] = frozenset(raw[at : at + PROMPT_BYTES] for at in starts)
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as e:
        raise ArtifactError(
            f"{path} is no record of training rows: {e}", "restore it, or train again"
        ) from None
    if model_digest is not None and head.model != model_digest:
        raise ArtifactError(
            f"{path} speaks of weights {head.model[:19]}..., and beside it lie "
            f"{model_digest[:19]}...",
            "restore the model folder as it was trained, or train again",
        )
    words = _sets(flat, sizes)
    return Seen(words=words, unknown=head.unknown, missing=head.missing, **packed)


def seen_by_run(folder: RunFolder) -> Seen:
    """Read the record of a run's model. The weights are not read: the record names their digest.

    Raises ArtifactError if the train stage is unfinished, or if demur.json or the record is not as
    training left it.
    """
    # Of the train stage's files only these two are compared: digests of weights take seconds.
    receipt = folder.receipt("train")
    names = [str((folder.model / name).relative_to(folder.root)) for name in (FILE_NAME, SEEN)]
    left = [
        name
        for name in names
        if (folder.root / name).exists() or (receipt and name in receipt.made)
    ]
    folder.require("train", *left)
    return seen_by_model(folder.model, folder.split("train"))


def seen_by_model(folder: Path, train_split: Path | None = None) -> Seen:
    """Read the record of the model in a folder, or make it from the train split that demur.json
    names.

    train_split: its file; None: of the run that the folder is part of, if it is in one. Raises
    ArtifactError if demur.json or the record is damaged, or if the record that demur.json names is
    missing.
    """
    file, path = read_model_file(folder), folder / SEEN
    if path.exists():
        return read_seen(path, file.fingerprint.model_digest)
    if SEEN in file.files:  # it may have held more than the split, which cannot make it again
        raise ArtifactError(f"{path} is missing", "restore the model folder, or train again")
    split = train_split or RunFolder(folder.parent.parent).split("train")
    if split.exists() and digest_file(split) == file.data_digest:
        return merge_records(
            [seen_of(read_examples(split)), seen_by_base(str(file.details.get("base", "tiny")))]
        )
    return Seen(missing=(str(folder),))


def seen_by_base(base: str) -> Seen:
    """The record of a base model; of one that demur did not train only its name is known."""
    folder = Path(base)
    if base in FROM_NOTHING:
        return Seen()
    return seen_by_model(folder) if (folder / FILE_NAME).exists() else Seen(unknown=(base,))


def front_seen(folder: RunFolder) -> Path:
    """distil/seen.npz: the traffic that a cascade's front was made from, held-out rows too"""
    return folder.stage("distil") / SEEN


def require_unseen_splits(folder: RunFolder, splits: Iterable[Split]) -> Seen:
    """Raise DataError, naming rows, if the run's model was trained on rows of these splits, or if
    its record is missing. Returns the record.

    The train split is passed over: the model was meant to learn it.
    """
    seen = seen_by_run(folder)
    for split in splits:
        if split != "train":
            require_unseen(
                seen, read_examples(folder.split(split)), f"the {split} split of {folder.root}"
            )
    return seen


def seen_by_files(paths: Iterable[Path]) -> Seen:
    """Read records that a user names: rows as JSONL, a seen.npz, a model folder or a run folder.

    Raises ConfigError on a path that is none of these, DataError or ArtifactError on a file that
    cannot be read.
    """
    return merge_records([_seen_by_file(path) for path in paths])


def _seen_by_file(path: Path) -> Seen:
    """Read one record by the kind of its path."""
    if path.suffix == ".npz":
        return read_seen(path)
    if (path / FILE_NAME).exists():
        return seen_by_model(path)
    if (path / "train" / "model" / FILE_NAME).exists():
        return seen_by_run(RunFolder(path))
    if not path.is_file():
        raise ConfigError(
            f"train.seen: {path} does not exist",
            "name rows (JSONL), a seen.npz, a model or a run folder",
        )
    rows = read_prompts([path]).rows
    return seen_of(
        Example(
            id=r.id,
            source=str(path),
            messages=r.messages,
            kind="benign",
            group=r.group,
            session=r.session,
        )
        for r in rows
    )


def _packed(digests: Collection[bytes]) -> Any:
    return np.frombuffer(b"".join(sorted(digests)), dtype=np.uint8).reshape(-1, PROMPT_BYTES)


def _sets(flat: Sequence[int], sizes: Sequence[int]) -> frozenset[WordDigests]:
    found, at = set(), 0
    for size in sizes:
        found.add(frozenset(flat[at : at + size]))
        at += size
    return frozenset(found)
