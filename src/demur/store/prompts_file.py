"""Prompts to ask a model: rows of any format and shape of docs/data.md, such as {"prompt": "..."}
on each line.

Other keys are ignored but `id`, `group` (rows made from one another), `session`, also named
`conversation_id` (the session that a request came in), `count` (requests that a row stands for),
`source` and the facets that rows say (demur.core.rows.facets), such as `tenant`. A reply at the end
of a conversation is left out: nobody is asked what has been answered.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from demur.base.errors import DataError
from demur.base.rows import RawRow, read_rows
from demur.core.example import Example, Message, fold
from demur.core.rows.facets import NONE, OF_LABELS, Facet, told_traits, value_of
from demur.core.rows.requests import joint_session, require_sessions
from demur.core.rows.shapes import count_cell, read_conversation, session_cell, text_cell


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptRow:
    """One prompt."""

    id: str
    messages: tuple[Message, ...]  # ends with the user's turn
    group: str | None
    session: str | None = None
    count: int = 1  # requests that the row stands for
    source: str | None = None
    traits: tuple[tuple[str, str], ...] = ()  # what its columns say of it: (facet, value)

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
    """Read the prompts of some files, in order, each once, with the requests of all its rows: the
    same text up to case, punctuation and space is one prompt.

    A row that holds no prompt is counted and named. Raises DataError on a line that is no row, on
    an id that names two prompts, on a count that is none, where only some rows name their session,
    and if there is no prompt at all.
    """
    found: dict[str, list[PromptRow]] = defaultdict(list)
    ids: dict[str, str] = {}
    without: dict[str, str] = {}  # place -> why
    rows = 0
    for path in files:
        for raw in read_rows(path):
            rows += 1
            try:
                asked = prompt_in(raw.value, raw.where)
            except DataError as e:
                without[raw.where] = e.message
                continue
            row = _row(raw, path, asked)
            # Ids are compared for repeated prompts too: an id must never mean two rows.
            _require_new(row, raw, ids)
            found["\n".join(fold(m.content) for m in row.messages)].append(row)
    if not found:
        names = ", ".join(map(str, files))
        why = f"; the first, {next(iter(without.values()))}" if without else ""
        raise DataError(
            f"{names}: {rows} rows, none with a prompt{why}",
            'one JSON object a line: {"prompt": "..."}',
        )
    _require_sessions([row for own in found.values() for row in own], ", ".join(map(str, files)))
    return Prompts(
        rows=tuple(
            replace(
                own[0],
                count=sum(row.count for row in own),
                session=joint_session([row.session for row in own]),
            )
            for own in found.values()
        ),
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
        rows.append(_row(raw, path, prompt_in(raw.value, raw.where)))
        _require_new(rows[-1], raw, ids)
    if not rows:
        raise DataError(f"{path} holds no prompt", 'one JSON object a line: {"prompt": "..."}')
    _require_sessions(rows, str(path))
    return rows


def facets_of(rows: Sequence[PromptRow]) -> dict[Facet, tuple[str | None, ...]]:
    """The value that each row has of the facets that requests say; of a source only where a row
    names its own.
    """
    examples = [
        Example(
            id=r.id, source=r.source or NONE, messages=r.messages, kind="benign", traits=r.traits
        )
        for r in rows
    ]
    found: dict[Facet, tuple[str | None, ...]] = {}
    for facet in OF_LABELS:
        values = [value_of(e, facet) for e in examples]
        if any(value != NONE for value in values):
            found[facet] = tuple(None if value == NONE else value for value in values)
    return found


def _row(
    raw: RawRow, path: Path, asked: tuple[tuple[Message, ...], str | None, str | None]
) -> PromptRow:
    """The prompt of a row. asked: as prompt_in reads it. Raises DataError with the place on a count
    that is none.
    """
    turns, name, group = asked
    try:
        session, count = session_cell(raw.value), count_cell(raw.value)
        source = text_cell(raw.value, "source")
        traits = told_traits(lambda name: text_cell(raw.value, name))
    except DataError as e:
        raise DataError(f"{raw.where}: {e.message}", e.hint) from None
    return PromptRow(
        id=name or f"{path.stem}:{raw.number}",
        messages=turns,
        group=group,
        session=session,
        count=count,
        source=source,
        traits=traits,
    )


def _require_sessions(rows: Sequence[PromptRow], where: str) -> None:
    require_sessions([(row.id, row.session) for row in rows], where)


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
