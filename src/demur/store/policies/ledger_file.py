"""data/ledger.jsonl: every attempt at certifying promises on the rows of a run.

1. A line is an attempt, or a set of rows that attempts were made on: a short digest of each row's
   prompt. Attempts share rows where these digests do, whatever ids the rows have by now. For the
   method "anytime" a line holds the order in which labelled rows came, one line a look.
2. Lines are only added, under the file's lock, with one write that is flushed to the disk.
3. The file outlives policies and new splits. Runs on the same rows may share one: the others have
   a link to it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from demur.base.boundary import Strict, json_value, validated
from demur.base.errors import ArtifactError, ConfigError
from demur.base.files import MODE
from demur.base.text import read_bytes
from demur.core.example import Example
from demur.core.goals.attempts import Attempt

Marks = npt.NDArray[np.uint64]  # one a row, sorted, each once
_MARK = np.dtype("<u8")


class RowsLine(Strict):
    """A set of rows, written before the first attempt on it."""

    format: Literal["demur.ledger/1"] = "demur.ledger/1"
    rows: str  # digest of the set
    marks: str  # base64 of 8 bytes a row


class AttemptLine(Strict):
    """One attempt."""

    format: Literal["demur.ledger/1"] = "demur.ledger/1"
    attempt: Attempt


class ArrivalLine(Strict):
    """Rows that were new at a look, in the order that they have from then on."""

    format: Literal["demur.ledger/1"] = "demur.ledger/1"
    arrival: str  # digest of the settings that rows are ordered by
    learn: int  # how many of the first look's rows fix the thresholds; 0 in later lines
    marks: str  # base64 of 8 bytes a row, prompt and label


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Arrivals:
    """The order in which rows came, over all looks so far."""

    marks: Marks  # one a row, in this order
    learn: int
    first: int  # rows of the first look


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Ledger:
    """The attempts of a run, in the order in which they were made, and the rows of each."""

    attempts: tuple[Attempt, ...] = ()
    marks: Mapping[str, Marks] = field(default_factory=dict)  # by the digest of the set
    arrivals: Mapping[str, Arrivals] = field(default_factory=dict)  # by the digest of the settings

    def sharing(self, marks: Marks) -> tuple[Attempt, ...]:
        """The attempts that share a row with these."""
        shares = {
            rows: bool(len(np.intersect1d(own, marks, assume_unique=True)))
            for rows, own in self.marks.items()
        }
        return tuple(a for a in self.attempts if shares[a.rows])


def marks_of(examples: Iterable[Example]) -> Marks:
    """Digests of the prompts of these rows."""
    return marks_of_texts(
        json.dumps([[m.role, m.content] for m in e.prompt], ensure_ascii=False) for e in examples
    )


def marks_of_texts(texts: Iterable[str]) -> Marks:
    """Digests of texts: the first 8 bytes of the sha256 of each, sorted, without repetitions."""
    found = b"".join(hashlib.sha256(t.encode()).digest()[:8] for t in texts)
    return np.unique(np.frombuffer(found, dtype=_MARK)).astype(np.uint64)


def marks_digest(marks: Marks) -> str:
    """The digest of a set of rows."""
    return f"sha256:{hashlib.sha256(marks.astype(_MARK).tobytes()).hexdigest()}"


def read_ledger(path: Path) -> Ledger:
    """Read a ledger; an empty one where there is no file. Raises ArtifactError naming the first
    damaged line.
    """
    if not path.exists():
        return Ledger()
    attempts: list[Attempt] = []
    marks: dict[str, Marks] = {}
    arrivals: dict[str, Arrivals] = {}
    data = read_bytes(path, ArtifactError)
    # Every line ends with a break: what follows the last one was cut off.
    lines = data.split(b"\n")
    for number, line in enumerate(lines if lines[-1] else lines[:-1], start=1):
        try:
            if number == len(lines):
                raise ValueError("it is cut off")
            found = _line(line)
            if isinstance(found, RowsLine):
                marks[found.rows] = _set_of_marks(found)
            elif isinstance(found, ArrivalLine):
                arrivals[found.arrival] = _joined(arrivals.get(found.arrival), found)
            elif found.attempt.rows not in marks:
                raise ValueError("its rows stand on no line before it")
            else:
                attempts.append(found.attempt)
        except (ValueError, ArtifactError) as e:
            fault = e.message if isinstance(e, ArtifactError) else str(e)
            raise ArtifactError(
                f"{path} is damaged: line {number}: {fault}",
                "restore it from a copy; without one nobody knows what was spent on these rows: "
                "move it aside, and label new rows for promises",
            ) from None
    return Ledger(attempts=tuple(attempts), marks=marks, arrivals=arrivals)


def share_ledger(own: Path, shared: Path, marks: Marks) -> None:
    """Make the ledger of a run a link to another one, which may be still to come. marks: of the
    run's rows.

    Raises ConfigError where the run has a ledger already, or where the other one is of other data;
    ArtifactError where the link cannot be made.
    """
    if own.resolve() == shared.resolve():
        return
    if own.exists() or own.is_symlink():
        raise ConfigError(
            f"calibrate.ledger = {shared}, and {own} holds {len(read_ledger(own).attempts)} "
            "attempts already",
            "leave ledger out, or add these lines to the shared file and remove this one",
        )
    other = read_ledger(shared)
    if other.attempts and not other.sharing(marks):
        raise ConfigError(
            f"{shared} is a ledger of other data: none of its {len(other.attempts)} attempts "
            f"shares a row with the {len(marks)} calibrate rows",
            "name the ledger of these rows, or leave calibrate.ledger out",
        )
    try:
        shared.parent.mkdir(parents=True, exist_ok=True)
        own.symlink_to(shared.resolve())
    except OSError as e:
        raise ArtifactError(
            f"cannot link {own} to {shared}: {e.strerror or e}", "check the folders"
        ) from None


def add_attempt(path: Path, ledger: Ledger, attempt: Attempt, marks: Marks) -> None:
    """Add an attempt, with its rows where no earlier one had them. The caller holds the file's
    lock.

    Raises ArtifactError where it cannot be written; the file is then as it was.
    """
    lines: list[Strict] = [AttemptLine(attempt=attempt)]
    if attempt.rows not in ledger.marks:
        lines.insert(0, RowsLine(rows=attempt.rows, marks=_marks_text(marks)))
    _append(path, [line.model_dump(mode="json") for line in lines])


def add_arrivals(path: Path, arrival: str, learn: int, marks: Marks) -> None:
    """Add the rows that are new at a look, in their order. The caller holds the file's lock. Raises
    ArtifactError as add_attempt does.
    """
    line = ArrivalLine(arrival=arrival, learn=learn, marks=_marks_text(marks))
    _append(path, [line.model_dump(mode="json")])


def _append(path: Path, values: Sequence[Mapping[str, Any]]) -> None:
    """Append JSON lines with one write, flushed to the disk; all of them or none."""
    data = "".join(json.dumps(v, ensure_ascii=False, allow_nan=False) + "\n" for v in values)
    handle = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, MODE)
        before = os.fstat(handle).st_size
        written = os.write(handle, data.encode())
        if written < len(data.encode()):
            os.ftruncate(handle, before)
            raise OSError("it took half a line")
        os.fsync(handle)
    except OSError as e:
        raise ArtifactError(
            f"cannot write {path}: {e.strerror or e}",
            "free some space, or check its permissions: what is not in the ledger is not certified",
        ) from None
    finally:
        if handle is not None:
            os.close(handle)


def _line(line: bytes) -> RowsLine | AttemptLine | ArrivalLine:
    """One line. Raises ValueError or ArtifactError on a damaged one."""
    value = json_value(line)
    if isinstance(value, dict) and "attempt" in value:
        return validated(AttemptLine, value, "it")
    if isinstance(value, dict) and "arrival" in value:
        return validated(ArrivalLine, value, "it")
    return validated(RowsLine, value, "it")


def _marks_text(marks: Marks) -> str:
    return base64.b64encode(marks.astype(_MARK).tobytes()).decode()


def _marks(text: str) -> Marks:
    """Digests of rows. Raises ValueError on text that holds none."""
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error as e:
        raise ValueError(f"its rows are no base64: {e}") from None
    if len(data) % 8:
        raise ValueError("its rows are cut off")
    return np.frombuffer(data, dtype=_MARK).astype(np.uint64)


def _set_of_marks(line: RowsLine) -> Marks:
    """The rows of a set. Raises ValueError unless they are those of its digest."""
    marks = _marks(line.marks)
    if marks_digest(marks) != line.rows:
        raise ValueError("its rows are not those of their digest")
    return marks


def _joined(before: Arrivals | None, line: ArrivalLine) -> Arrivals:
    """The order with the rows of one look more."""
    marks = _marks(line.marks)
    if before is None:
        return Arrivals(marks=marks, learn=line.learn, first=len(marks))
    return replace(before, marks=np.concatenate([before.marks, marks]))
