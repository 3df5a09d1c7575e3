"""Atomic writes and digests: no artifact is ever half-written, and a digest identifies each one.

1. A write goes to a temporary beside the file, is flushed to disk, and renamed over the file.
2. The temporary is locked while its writer lives. `sweep` removes those whose lock is free: their
   writers were killed.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from demur.base.errors import ArtifactError

CHUNK_BYTES = 1 << 20
MODE = 0o644
PART = ".part"  # how the name of a temporary ends


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole or not at all: a temporary beside it, flushed to disk, then renamed over
    it.

    Raises ArtifactError (full disk, no permission) and leaves what was there before.
    """
    write_together({path: data})


def write_together(files: Mapping[Path, bytes]) -> None:
    """Write several files, none before all are on the disk: what is there stays if one of them does
    not fit.

    Raises ArtifactError as write_bytes does. Only a kill between two renames leaves some old and
    some new.
    """
    with ExitStack() as stack:
        # all are written and flushed before the first is renamed
        parts = {path: stack.enter_context(_part(path, data)) for path, data in files.items()}
        for path, part in parts.items():
            try:
                part.replace(path)
            except OSError as e:
                raise _unwritten(path, e) from None


@contextmanager
def _part(path: Path, data: bytes) -> Iterator[Path]:
    """A temporary beside `path` that holds the data, on the disk; locked within the block, and gone
    after it.

    The lock tells `sweep` that its writer lives: the system lets go of it when a process is killed.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=PART)
        while not _locked(handle):  # swept away between its making and its locking: make another
            os.close(handle)
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=PART)
    except OSError as e:
        raise ArtifactError(
            f"cannot write {path}: {e.strerror or e}", "check the folder and its permissions"
        ) from None
    temporary = Path(name)
    file = os.fdopen(handle, "wb")
    try:
        try:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            # mkstemp makes it private; an artifact is as readable as any other file
            temporary.chmod(MODE)
        except OSError as e:
            raise _unwritten(path, e) from None
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)
        with suppress(OSError):  # closing tells of a full disk once more
            file.close()


def _locked(handle: int) -> bool:
    """Lock a file that was just made. False if it has no name any more."""
    with suppress(BlockingIOError):
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return os.fstat(handle).st_nlink > 0


def sweep(folder: Path) -> None:
    """Remove the temporaries of writers that were killed, in a folder and below. Those of living
    writers stay.
    """
    for path in folder.rglob(f".*{PART}"):
        with suppress(OSError), path.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)


def _unwritten(path: Path, e: OSError) -> ArtifactError:
    return ArtifactError(
        f"cannot write {path}: {e.strerror or e}", "free some space, then run again"
    )


def make_readable(folder: Path) -> None:
    """Make all files in a folder as readable as other artifacts: some libraries write theirs for
    the owner alone.
    """
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(MODE)


def is_part(path: Path) -> bool:
    """Whether a file is the temporary of a write, under way or killed."""
    return path.name.startswith(".") and path.name.endswith(PART)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically. See write_bytes."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, indented, keys in the given order; NaN and infinities are refused."""
    write_bytes(path, json_bytes(value))


def json_bytes(value: Any) -> bytes:
    """JSON as artifacts have it. NaN and infinities are refused."""
    return (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8")


def open_regular(path: Path) -> BinaryIO:
    """A file, opened for reading. Raises OSError also on a pipe in its place, which would make the
    reader wait.
    """
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))  # noqa: SIM115  # a caller closes it
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return file


def digest_bytes(data: bytes) -> str:
    """sha256 of some bytes, "sha256:" and 64 hex digits."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def digest_file(path: Path) -> str:
    """sha256 of one file. Raises ArtifactError if it cannot be read."""
    state = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                state.update(chunk)
    except OSError as e:
        raise ArtifactError(
            f"cannot read {path}: {e.strerror or e}", "run the stage that makes it"
        ) from None
    return f"sha256:{state.hexdigest()}"


def digest_json(value: Any) -> str:
    """sha256 of a JSON value, independent of key order."""
    return digest_bytes(
        json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False).encode("utf-8")
    )
