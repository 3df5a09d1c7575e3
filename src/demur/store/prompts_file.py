"""Prompts to ask a model: rows of any format and shape of docs/data.md, such as {"prompt": "..."}
on each line.

Other keys are ignored but `id`, `group` (rows made from one another) and `session`, also named
`conversation_id` (the session that a request came in). A reply at the end of a
conversation is left out: nobody is asked what has been answered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demur.base.errors import DataError
from demur.base.rows import RawRow, read_rows
from demur.core.example import Message, fold
from demur.core.rows.shapes import read_conversation, text_cell

SESSION_COLUMNS = ("session", "conversation_id")


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptRow:
    """One prompt."""

    id: str
    messages: tuple[Message, ...]  # ends with the user's turn
    group: str | None
    session: str | None = None

    @property
    def unit(self) -> str | None:
        """The group or session whose rows are one piece of evidence; None: the row stands alone."""
        return self.group if self.group is not None else self.session


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompts:
    """The prompts of some files, and how many rows held none of their own."""

    rows: tuple[PromptRow, ...]  # each prompt once
    duplicates: int  # further rows with the same prompt
    without: tuple[str, ...]  # "file:line" of rows without a prompt


def read_prompts(files: Sequence[Path]) -> Prompts:
    """Read the prompts of some files, in order, each once: the same text up to case, punctuation
    and space is one prompt.

    A row that holds no prompt is counted and named. Raises DataError on a line that is no row, on
    an id that names two prompts, and if there is no prompt at all.
    """
    found: dict[str, PromptRow] = {}
    ids: dict[str, str] = {}
    without: dict[str, str] = {}  # place -> why
    rows = 0
    for path in files:
        for raw in read_rows(path):
            rows += 1
            try:
                row = _row(raw, path)
            except DataError as e:
                without[raw.where] = e.message
                continue
            # Ids are compared for repeated prompts too: an id must never mean two rows.
            _require_new(row, raw, ids)
            found.setdefault("\n".join(fold(m.content) for m in row.messages), row)
    if not found:
        names = ", ".join(map(str, files))
        why = f"; the first, {next(iter(without.values()))}" if without else ""
        raise DataError(
            f"{names}: {rows} rows, none with a prompt{why}",
            'one JSON object a line: {"prompt": "..."}',
        )
    return Prompts(
        rows=tuple(found.values()),
        duplicates=rows - len(without) - len(found),
        without=tuple(without),
    )


def read_each_prompt(path: Path) -> list[PromptRow]:
    """Read every prompt of a file, repeated ones too. Raises DataError on the first row without
    one, and where only some rows name their session.
    """
    ids: dict[str, str] = {}
    rows = []
    for raw in read_rows(path):
        rows.append(_row(raw, path))
        _require_new(rows[-1], raw, ids)
    if not rows:
        raise DataError(f"{path} holds no prompt", 'one JSON object a line: {"prompt": "..."}')
    _require_sessions(rows, path)
    return rows


def _row(raw: RawRow, path: Path) -> PromptRow:
    """The prompt of a row. Raises DataError with the place if it holds none that can be asked."""
    turns, name, group = prompt_in(raw.value, raw.where)
    try:
        sessions = [text_cell(raw.value, word) for word in SESSION_COLUMNS]
    except DataError as e:
        raise DataError(f"{raw.where}: {e.message}", e.hint) from None
    return PromptRow(
        id=name or f"{path.stem}:{raw.number}",
        messages=turns,
        group=group,
        session=next((s for s in sessions if s is not None), None),
    )


def _require_sessions(rows: Sequence[PromptRow], path: Path) -> None:
    """Raise DataError where some rows name their session and others do not."""
    without = [row.id for row in rows if row.session is None]
    if 0 < len(without) < len(rows):
        raise DataError(
            f"{path}: {len(without)} of {len(rows)} rows have no session, first {without[0]!r}",
            "name the session of every row, or of none: requests then count as independent",
        )


def prompt_in(
    row: Mapping[str, Any], where: str
) -> tuple[tuple[Message, ...], str | None, str | None]:
    """The turns of a row up to the user's last, its id and its group. Raises DataError, naming
    `where`, without one.
    """
    try:
        turns = read_conversation(row).turns
        name, group = (text_cell(row, word) for word in ("id", "group"))
    except DataError as e:
        raise DataError(f"{where}: {e.message}", e.hint) from None
    # replies at the end are left out: the last turn is to be the user's
    while turns and turns[-1].role == "assistant":
        turns = turns[:-1]
    if not turns or turns[-1].role != "user":
        raise DataError(f"{where}: there is no turn of the user to answer", "drop the row")
    return turns, name, group


def _require_new(row: PromptRow, raw: RawRow, ids: dict[str, str]) -> None:
    """Remember where an id stands. Raises DataError if another row has it."""
    if row.id in ids:
        raise DataError(
            f"{raw.where}: id {row.id!r} stands at {ids[row.id]} too",
            "give each row an id of its own",
        )
    ids[row.id] = raw.where
