"""Reading rows from files of any supported format: one reader for every verb.

1. A folder saved by the package `datasets`, a Parquet or an Arrow file is recognised by its
   content.
2. Any other file is text. One that begins with "{" is JSONL, one that begins with "[" a JSON array.
3. Else it is a table: commas, semicolons, tabs or bars between the columns, as its header has them.

A row is a mapping from its keys, or the header's columns, to values. Cells of a text table are
texts; an empty one is None. Every row carries its place in the file, for errors.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demur.base.columnar import Batch, is_saved, read_columnar, read_saved
from demur.base.errors import DataError
from demur.base.text import read_bytes, read_text

JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
TABLE_SUFFIXES = (".csv", ".tsv")
COLUMNAR_SUFFIXES = (".parquet", ".arrow")
SUFFIXES = (*JSON_SUFFIXES, *TABLE_SUFFIXES, *COLUMNAR_SUFFIXES)

_DELIMITERS = ",;\t|"
# of a cell; the csv module's own limit of 131,072 is shorter than a prompt may be
_MOST_CHARACTERS = 2**31 - 1
_HEAD = 64  # bytes that tell a format
_SHOWN = 60  # characters of a file that an error repeats
_QUOTED = re.compile(r'"[^"]*"')
# the line "sep=;" that Excel writes above the header, parted by what it names
_EXCEL = ["sep=", ""]
# all that JSON knows; splitlines() also breaks at U+2028 inside a text
_LINE_END = re.compile(r"\r\n|\n|\r")
# What a file begins with that is no text, and what to do about it.
_FOREIGN = {
    b"\x1f\x8b": ("a gzip file", "unpack it: gunzip"),
    b"PK\x03\x04": ("a zip file or a spreadsheet", "unpack it, or save the sheet as CSV"),
    b"SQLite format 3": ("an SQLite database", "export the table as CSV"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class RawRow:
    """One row, as it stands in its file."""

    where: str  # "rows.csv:12" (line), "rows.json: row 12", "rows.parquet: row 12"
    number: int  # of the line or the row, from 1
    value: Mapping[str, Any]
    part: str | None = None  # name of the split of a saved `datasets` folder that it lies in


def read_rows(path: Path, encoding: str | None = None) -> Iterator[RawRow]:
    """Read the rows of a file, or of a folder saved by `datasets`, in order.

    encoding: of a text file without a byte-order mark; None: UTF-8. Raises DataError naming file,
    line or row, what was found there and what to do.
    """
    if path.is_dir():
        yield from _tabled(read_saved(path))
        return
    head = read_bytes(path, DataError, most=_HEAD)
    for magic, (what, hint) in _FOREIGN.items():
        if head.startswith(magic):
            raise DataError(f"cannot read {path}: it is {what}", f"{hint} ({path.name})")
    found = read_columnar(path, head)
    if found is not None:
        yield from _tabled(found)
        return
    text = read_text(path, DataError, encoding)
    match text.lstrip()[:1]:
        case "":
            return
        case "{":
            yield from _lines(text, path)
        case "[":
            yield from _array(text, path)
        case _:
            _require_table(text, path)
            yield from _table(text, path)


def rows_below(folder: Path) -> list[Path]:
    """Find the files and saved `datasets` folders below a folder that read_rows may read, by
    name.
    """
    found: list[Path] = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir() and not is_saved(path):
            found += rows_below(path)
        elif path.is_dir() or path.suffix.lower() in SUFFIXES:
            found.append(path)
    return found


def _tabled(batches: Iterator[Batch]) -> Iterator[RawRow]:
    """Number the rows of a Parquet or Arrow table."""
    number: dict[Path, int] = {}
    for batch in batches:
        for value in batch.rows:
            n = number[batch.path] = number.get(batch.path, 0) + 1
            yield RawRow(where=f"{batch.path}: row {n}", number=n, value=value, part=batch.part)


def _lines(text: str, path: Path) -> Iterator[RawRow]:
    """Read JSONL: an object on each line that is not blank."""
    for number, line in enumerate(_LINE_END.split(text), start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            value = _loaded(line)
        except ValueError as e:
            if number == 1 and (keys := _only_object(text)) is not None:
                raise DataError(
                    f"{path} holds one JSON object over several lines, with the keys {keys}",
                    f"one JSON object per line, or an array: jq -c . {path.name}; or jq -c "
                    "'.KEY[]' for a list in it",
                ) from None
            raise DataError(
                f"{where} is not JSON: {_fault(e)}", "one JSON object per line; is it cut off?"
            ) from None
        yield _row(where, number, value)


def _array(text: str, path: Path) -> Iterator[RawRow]:
    """Read a JSON array of objects. Raises DataError on anything else."""
    try:
        values = _loaded(text)
    except ValueError as e:
        line = f":{e.lineno}" if isinstance(e, json.JSONDecodeError) else ""
        hint = "it begins with '[': one array of objects, or an object per line; is it cut off?"
        raise DataError(f"{path}{line} is not JSON: {_fault(e)}", hint) from None
    for number, value in enumerate(values, start=1):
        yield _row(f"{path}: row {number}", number, value)


def _require_table(text: str, path: Path) -> None:
    """Raise DataError unless a text that is not JSON may be a table, by its name or by its
    header.
    """
    header = _LINE_END.split(text.strip("\ufeff\r\n"), 1)[0]
    # several cells and no bracket: a header of column names, not a broken line of JSON
    cells = header.split(_delimiter(header))
    looks_so = len(cells) > 1 and not any(c in header for c in "{}[]")
    suffix = path.suffix.lower()
    if suffix in TABLE_SUFFIXES or (looks_so and suffix not in JSON_SUFFIXES):
        return
    shown = repr(header if len(header) <= _SHOWN else f"{header[:_SHOWN]}...")
    if looks_so:
        hint = f"CSV is read too: rename it to {path.stem}.csv"
        raise DataError(f"{path}:1 is not JSON; it looks like CSV with the header {shown}", hint)
    if suffix in JSON_SUFFIXES:
        raise DataError(
            f"{path}:1 is not JSON: it begins with {shown}", "one JSON object per line, or an array"
        )
    hint = f"name it after its format: {', '.join(SUFFIXES)}"
    raise DataError(f"{path} is of no known format: it begins with {shown}", hint)


def _table(text: str, path: Path) -> Iterator[RawRow]:
    """Read a text table whose first line names the columns. Blank lines are left out."""
    csv.field_size_limit(_MOST_CHARACTERS)
    delimiter = _delimiter(_LINE_END.split(text.lstrip("\r\n"), 1)[0])
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    start = 1
    while (cells := _record(reader, f"{path}:{start}")) is not None:
        where, number, start = f"{path}:{start}", start, reader.line_num + 1
        if not any(c.strip() for c in cells) or (header is None and cells == _EXCEL):
            continue
        if header is None:
            header = _header([c.strip() for c in cells], where)
        elif len(cells) != len(header):
            raise DataError(
                f"{where}: {len(cells)} cells, but the header has {len(header)} columns: "
                f"{', '.join(header)}",
                f"columns are parted by {delimiter!r}: a cell that holds one, or a line end, "
                "stands in double quotes",
            )
        else:
            values = {name: cell or None for name, cell in zip(header, cells, strict=True)}
            yield RawRow(where=where, number=number, value=values)


def _record(reader: Iterator[list[str]], where: str) -> list[str] | None:
    """Read the next record; None at the end. Raises DataError on quotes that do not close."""
    try:
        return next(reader, None)
    except csv.Error as e:
        raise DataError(
            f"{where} is not CSV: {e}", "a double quote inside a quoted cell is written twice"
        ) from None


def _header(names: list[str], where: str) -> list[str]:
    """Check the names of the columns: only the last of several equal ones would be seen."""
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise DataError(
            f"{where}: the header names the column {twice[0]!r} twice",
            "rename one; is there a header?",
        )
    return names


def _delimiter(header: str) -> str:
    """Choose what parts the columns: the one that occurs most in the header outside quotes, a comma
    before others.
    """
    # max() takes the first of equal counts, and the comma stands first
    bare = _QUOTED.sub("", header)
    return max(_DELIMITERS, key=bare.count)


def _row(where: str, number: int, value: object) -> RawRow:
    """A JSON value as a row. Raises DataError unless it is an object."""
    if not isinstance(value, dict):
        shown = repr(value)[:_SHOWN]
        raise DataError(
            f"{where}: the row is a {type(value).__name__}: {shown}",
            "a row is a JSON object with keys",
        )
    return RawRow(where=where, number=number, value=value)


def _loaded(text: str) -> Any:
    """Parse JSON. Raises ValueError also where it is nested too deeply for the parser."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _fault(e: ValueError) -> str:
    """The fault alone: JSONDecodeError adds a position within the line."""
    return e.msg if isinstance(e, json.JSONDecodeError) else str(e)


def _only_object(text: str) -> str | None:
    """Name the keys of a file that is one object; None if it is not."""
    try:
        value = _loaded(text)
    except ValueError:
        return None
    return ", ".join(map(repr, value)) if isinstance(value, dict) else None
