"""seen.npz: the digests of what a model was trained on, beside demur.json. No text, and nothing
that runs when read.

1. Training writes it: its own rows, what its base had seen, and what the settings name (`[train]
   seen`).
2. Where a model has none (an earlier demur trained it), it is made again from the train split, if
   that is still the one whose digest demur.json names. Otherwise the record is missing, and nothing
   is certified.
3. `seen_by_run` is what every stage asks.
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
    format: Literal["demur.seen/1"] = "demur.seen/1"
    model: str  # digest of the weights that it speaks of
    unknown: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


def write_seen(path: Path, seen: Seen, model_digest: str) -> None:
    """Write the record of the weights with this digest, atomically. The same record gives the same
    bytes.
    """
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
            if sum(sizes) != len(flat):
                raise ValueError(f"{len(flat)} words for sets of {sum(sizes)} in all")
            packed = {name: _unpacked(arrays[name]) for name in ("prompts", "groups", "ids")}
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
    """What the model of a run was trained on. Weights are not read: its record names theirs.

    Raises ArtifactError if the train stage is unfinished, or if demur.json or the record is not as
    training left it.
    """
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
    """What the model in a folder was trained on, by its record or by the rows of which demur.json
    has the digest.

    train_split: where these rows may still lie; None: in the run that the folder is part of, if it
    is in one. Raises ArtifactError if demur.json or the record is damaged, or if the record is gone
    that demur.json names.
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
    """What a base model brings along: a folder of demur's its record, any other only its name."""
    folder = Path(base)
    if base in FROM_NOTHING:
        return Seen()
    return seen_by_model(folder) if (folder / FILE_NAME).exists() else Seen(unknown=(base,))


def front_seen(folder: RunFolder) -> Path:
    """distil/seen.npz: the traffic that a cascade's front was made from, held-out rows too"""
    return folder.stage("distil") / SEEN


def require_unseen_splits(folder: RunFolder, splits: Iterable[Split]) -> Seen:
    """Raise DataError, naming rows, if the run's model was trained on rows of these splits, or if
    nobody knows.

    The train split is left out: it is there to be learnt. Returns what the model has seen.
    """
    seen = seen_by_run(folder)
    for split in splits:
        if split != "train":
            require_unseen(
                seen, read_examples(folder.split(split)), f"the {split} split of {folder.root}"
            )
    return seen


def seen_by_files(paths: Iterable[Path]) -> Seen:
    """What somebody says a model was trained on: rows as JSONL, a seen.npz, a model folder or a run
    folder.

    Raises ConfigError on a path that is none of these, DataError or ArtifactError on a file that
    cannot be read.
    """
    return merge_records([_seen_by_file(path) for path in paths])


def _seen_by_file(path: Path) -> Seen:
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
        Example(id=r.id, source=str(path), messages=r.messages, kind="benign", group=r.group)
        for r in rows
    )


def _packed(digests: Collection[bytes]) -> Any:
    return np.frombuffer(b"".join(sorted(digests)), dtype=np.uint8).reshape(-1, PROMPT_BYTES)


def _unpacked(array: Any) -> frozenset[bytes]:
    raw = array.astype(np.uint8, casting="safe").tobytes()
    return frozenset(raw[at : at + PROMPT_BYTES] for at in range(0, len(raw), PROMPT_BYTES))


def _sets(flat: Sequence[int], sizes: Sequence[int]) -> frozenset[WordDigests]:
    found, at = set(), 0
    for size in sizes:
        found.add(frozenset(flat[at : at + size]))
        at += size
    return frozenset(found)
