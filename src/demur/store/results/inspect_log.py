"""Right and wrong samples of an Inspect AI log. The log is read without the package.

Two formats (inspect.aisi.org.uk/eval-logs.html): .json, one object, and .eval, a zip archive with
header.json and a file per sample under samples/, in newer versions compressed by zstandard, which
Python's zipfile does not know yet.
"""

from __future__ import annotations

import json
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from demur.base.errors import ArtifactError, DataError
from demur.base.text import read_text

ZSTANDARD = 93  # APPNOTE 4.4.5
# what a score of right or wrong looks like
RIGHT: Mapping[object, bool] = {"C": True, "I": False, 1: True, 0: False}


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One sample in one epoch."""

    id: str
    correct: bool
    # "group" of its metadata, else the sample's id: epochs of a sample are not independent
    group: str


def read_log(path: Path, scorer: str) -> tuple[str, list[Sample]]:
    """(task, samples) of a finished log. scorer: whose scores count, where several scored; one
    alone always does.

    Raises ArtifactError if the file cannot be read, DataError if the evaluation did not finish or a
    sample has no score of right or wrong: neither is a wrong answer.
    """
    if path.suffix == ".eval":
        header, samples = _archive(path)
    else:
        header = _json(read_text(path, ArtifactError), str(path))
        samples = header.get("samples") or []
    if header.get("status") != "success":
        raise DataError(
            f"{path}: the evaluation's status is {header.get('status')!r}",
            "give one that succeeded",
        )
    task = header.get("eval", {}).get("task")
    if not isinstance(task, str):
        raise DataError(f"{path} names no task", "is it a log of Inspect AI?")
    return task, [_sample(sample, scorer, f"{path}: sample") for sample in samples]


def _archive(path: Path) -> tuple[dict[str, Any], list[Any]]:
    """Header and samples of an .eval archive. Raises ArtifactError or DataError."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [
                n
                for n in sorted(archive.namelist())
                if n.startswith("samples/") and n.endswith(".json")
            ]
            if "header.json" not in archive.namelist():
                raise DataError(
                    f"{path} has no header.json: the evaluation did not finish", "give one that did"
                )
            texts = {
                name: _read(archive, archive.getinfo(name)).decode()
                for name in ("header.json", *names)
            }
    except FileNotFoundError:
        raise ArtifactError(f"{path} does not exist", "give a log of Inspect AI") from None
    except (zipfile.BadZipFile, NotImplementedError, OSError, UnicodeDecodeError) as e:
        raise ArtifactError(
            f"{path} cannot be read: {e}", "inspect log convert --to json, then give that"
        ) from None
    header, *samples = (_json(text, f"{path}: {name}") for name, text in texts.items())
    return header, samples


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """The bytes of one file of an archive, also of one that is packed by zstandard."""
    if info.compress_type != ZSTANDARD:
        return archive.read(info)
    # zipfile finds the member and cannot unpack it: its bytes are read from the archive's own file.
    file = archive.fp
    assert file is not None  # the archive is open
    file.seek(info.header_offset)
    # APPNOTE 4.3.7: ends a local file header
    name_bytes, extra_bytes = struct.unpack("<26x2H", file.read(30))
    file.seek(name_bytes + extra_bytes, 1)
    packed = file.read(info.compress_size)
    plain: bytes = pa.Codec("zstd").decompress(
        packed, decompressed_size=info.file_size, asbytes=True
    )
    return plain


def _json(text: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as e:
        raise ArtifactError(f"{where} is not JSON: {e}", "is it cut off?") from None
    if not isinstance(value, dict):
        raise ArtifactError(f"{where} is no object", "give a log of Inspect AI")
    return value


def _sample(sample: Mapping[str, Any], scorer: str, where: str) -> Sample:
    """A sample with its verdict. Raises DataError if its score does not say right or wrong."""
    name, epoch = str(sample.get("id")), sample.get("epoch", 1)
    scores = sample.get("scores") or {}
    # the named scorer's score; without one, the only score there is
    score = scores.get(scorer) or (next(iter(scores.values())) if len(scores) == 1 else None)
    value = score.get("value") if isinstance(score, dict) else None
    if not isinstance(value, str | int | float) or value not in RIGHT:
        what = f"a score of {value!r}" if score else f"scores by {', '.join(scores) or 'nobody'}"
        raise DataError(
            f"{where} {name!r} has {what}, not right or wrong",
            "--metric NAME says whose scores count",
        )
    group = (sample.get("metadata") or {}).get("group")
    own = name if epoch == 1 else f"{name} in epoch {epoch}"
    return Sample(id=own, correct=RIGHT[value], group=group if isinstance(group, str) else name)
