"""Reading Parquet and Arrow tables as rows, and the folders that the package `datasets` saves them
in. Imports pyarrow.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from demur.base.errors import DataError

# what save_to_disk writes for one table, and for several splits
_STATE, _PARTS = "state.json", "dataset_dict.json"
_PARQUET, _ARROW_FILE = b"PAR1", b"ARROW1"


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """A batch of rows of one file."""

    path: Path
    rows: list[dict[str, Any]]
    part: str | None = None  # name of the split, where a folder has several


def is_saved(folder: Path) -> bool:
    """Whether a folder was written by save_to_disk of the package `datasets`."""
    return (folder / _STATE).is_file() or (folder / _PARTS).is_file()


def read_columnar(path: Path, head: bytes) -> Iterator[Batch] | None:
    """Read a Parquet or Arrow file, recognised by its first bytes; None for any other file.

    Raises DataError if it is damaged.
    """
    if head.startswith(_PARQUET):
        return _guarded(path, _parquet)
    if head.startswith(_ARROW_FILE) or path.suffix.lower() == ".arrow":
        return _guarded(path, partial(_arrow, as_file=head.startswith(_ARROW_FILE)))
    if path.suffix.lower() == ".parquet":
        raise DataError(
            f"cannot read {path}: it does not begin as a Parquet file does", "write it again"
        )
    return None


def read_saved(folder: Path) -> Iterator[Batch]:
    """Read a folder saved by `datasets`, split by split. Raises DataError if it was not, or is
    damaged.
    """
    if (folder / _PARTS).is_file():
        for name in _listed(folder / _PARTS, "splits"):
            for batch in read_saved(folder / str(name)):
                yield Batch(path=batch.path, rows=batch.rows, part=str(name))
        return
    if not (folder / _STATE).is_file():
        raise DataError(
            f"{folder} is a folder, and none that `datasets` saved: it has no {_STATE}",
            "name the files in it; or let demur look: demur init FOLDER",
        )
    for file in _listed(folder / _STATE, "_data_files"):
        path = folder / str(file["filename"] if isinstance(file, dict) else file)
        yield from _guarded(path, partial(_arrow, as_file=False))


def _listed(path: Path, key: str) -> list[Any]:
    """Read a list out of one of the package's own JSON files."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))[key]
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise DataError(
            f"cannot read {path}: {e}", "save the dataset again: save_to_disk"
        ) from None
    return list(found)


def _guarded(path: Path, read: Callable[[Path], Iterator[list[dict[str, Any]]]]) -> Iterator[Batch]:
    """Yield the batches of a file; pyarrow's errors become ours."""
    try:
        for rows in read(path):
            yield Batch(path=path, rows=rows)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist", "save the dataset again: save_to_disk") from None
    # texts that are none, days of no year
    except (OSError, ValueError, OverflowError, pa.ArrowException) as e:
        reason = str(e).splitlines()[0] if str(e) else type(e).__name__
        raise DataError(
            f"cannot read {path}: {reason}", "it is damaged or cut off: write it again"
        ) from None


def _parquet(path: Path) -> Iterator[list[dict[str, Any]]]:
    """Read a Parquet file, a batch at a time: files may be larger than memory."""
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches():
            yield _listed_rows(batch)


def _arrow(path: Path, *, as_file: bool) -> Iterator[list[dict[str, Any]]]:
    """Read an Arrow file or stream; `datasets` writes streams."""
    with pa.OSFile(str(path), "rb") as source:
        if as_file:
            reader = pa.ipc.open_file(source)
            for n in range(reader.num_record_batches):
                yield _listed_rows(reader.get_batch(n))
            return
        for batch in pa.ipc.open_stream(source):
            yield _listed_rows(batch)


def _listed_rows(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """The rows of a batch, checked first: pyarrow follows the offsets of a damaged one out of its
    memory.
    """
    batch.validate(full=True)
    rows: list[dict[str, Any]] = batch.to_pylist()
    return rows
