"""Locks between processes, and journals: rows that outlive the process that wrote them.

1. A lock is an empty file beside the file that it is for. It is never removed: another process may
   be waiting for it.
2. A process appends rows to a journal of its own, and holds it locked as long as it lives.
3. A journal that nobody holds locked was left by a killed process. The process that counts its rows
   removes it.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demur.base.boundary import json_value
from demur.base.errors import ArtifactError


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file within the block; wait for it if another process or thread has it.

    Raises ArtifactError if the lock file cannot be made, as on a full disk.
    """
    name = path.with_name(f"{path.name}.lock")
    try:
        name.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(name, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as e:
        raise ArtifactError(
            f"cannot lock {path}: {e.strerror or e}", "check the folder and its permissions"
        ) from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)  # and with it the lock


class Journal:
    """A file to which one process appends rows, one JSON value a line, and which it holds locked as
    long as it lives.

    A row that was appended outlives the process, though not the machine's power: nothing is flushed
    to the disk. Raises ArtifactError, also from `append`, where nothing can be written.
    """

    def __init__(self, beside: Path) -> None:
        self.name = secrets.token_hex(8)
        self.path = beside.with_name(f"{beside.name}.{self.name}.journal")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._handle = os.open(
                self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o644
            )
        except OSError as e:
            raise ArtifactError(
                f"cannot write {self.path}: {e.strerror or e}", "free some space"
            ) from None
        fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def append(self, row: Any) -> None:
        """Append one row. It is written when this returns, not flushed to the disk."""
        # one write call: the rows of two threads cannot run into each other
        data = json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        try:
            written = os.write(self._handle, data)
        except OSError as e:
            raise ArtifactError(
                f"cannot write {self.path}: {e.strerror or e}", "free some space"
            ) from None
        if written < len(data):
            raise ArtifactError(f"cannot write {self.path}: it took half a row", "free some space")

    def end(self, *, remove: bool) -> None:
        """Write no more. remove: all its rows are counted."""
        if remove:
            self.path.unlink(missing_ok=True)
        os.close(self._handle)


@dataclass(frozen=True, kw_only=True, slots=True)
class Abandoned:
    """The journal of a process that was killed."""

    name: str
    path: Path
    rows: Sequence[Any]  # without a last one that is only half there


def abandoned_journals(beside: Path) -> list[Abandoned]:
    """Find the journals of a file whose writers are dead. The caller holds the file's lock, and
    removes them afterwards.
    """
    # The lock on a journal goes with its writer, however that ends: a lock that can be had at once
    # means that nobody writes there any more.
    found = []
    for path in sorted(beside.parent.glob(f"{beside.name}.*.journal")):
        try:
            handle = os.open(path, os.O_RDONLY)
        except OSError:  # removed meanwhile, or not ours to read: its rows cannot be had
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue  # its writer lives
        finally:
            os.close(handle)
        name = path.name.removeprefix(f"{beside.name}.").removesuffix(".journal")
        found.append(Abandoned(name=name, path=path, rows=_whole_rows(path)))
    return found


def _whole_rows(path: Path) -> list[Any]:
    """Read the rows of a journal up to the first damaged one."""
    # What follows the last line break is a row that was being written when the process was killed.
    rows = []
    for line in path.read_bytes().split(b"\n")[:-1]:
        try:
            rows.append(json_value(line))
        # After one damaged row none can be trusted.
        except ValueError:
            break
    return rows
