"""Prompts to ask a model, as JSONL: {"prompt": "..."} or {"messages": [...]}; demur's own rows are read too.

Other keys are ignored but `id` and `group` (rows made from one another). A reply at the end of `messages` is left out:
nobody is asked what has been answered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from demur.base.rows import read_rows
from demur.core.errors import DataError
from demur.core.example import Message, fold
from demur.store.rows import MessageRow


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptRow:
    """One prompt."""

    id: str
    messages: tuple[Message, ...]  # ends with the user's turn
    group: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompts:
    """What the files hold."""

    rows: tuple[PromptRow, ...]  # each prompt once
    duplicates: int  # further rows with the same prompt
    without: tuple[str, ...]  # "file:line" of rows without a prompt


class _Line(BaseModel):
    model_config = ConfigDict(extra="ignore")

    id: str | int | None = None
    group: str | None = None
    prompt: str | None = None
    messages: tuple[MessageRow, ...] = Field(default=())

    def asked(self) -> tuple[Message, ...]:
        """The prompt; empty if there is none."""
        found = tuple(Message(role=m.role, content=m.content) for m in self.messages)
        if self.prompt is not None:
            found = (Message(role="user", content=self.prompt),)
        found = found[:-1] if found and found[-1].role == "assistant" else found
        ends = bool(found) and found[-1].role == "user" and bool(found[-1].content.strip())
        return found if ends and all(_is_text(m.content) for m in found) else ()


def _is_text(content: str) -> bool:
    """Whether it can be sent: JSON can spell half a character, UTF-8 cannot."""
    try:
        content.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def read_prompts(files: Sequence[Path]) -> Prompts:
    """The prompts of some files, in order, each once: the same text up to case, punctuation and space is one prompt.

    A line of JSON that holds no prompt is counted and named. Raises DataError on a line that is no JSON, on an id that
    names two prompts, and if there is no prompt at all.
    """
    found: dict[str, PromptRow] = {}
    ids: dict[str, str] = {}
    without: list[str] = []
    rows = 0
    for path in files:
        for raw in read_rows(path):
            where, rows = raw.where, rows + 1
            row = _row(raw.value, f"{path.stem}:{raw.number}")
            if row is None:
                without.append(where)
                continue
            if row.id in ids:
                raise DataError(f"{where}: id {row.id!r} stands at {ids[row.id]} too", "give each row an id of its own")
            ids[row.id] = where
            found.setdefault("\n".join(fold(m.content) for m in row.messages), row)
    if not found:
        names = ", ".join(map(str, files))
        raise DataError(f"{names}: {rows} rows, none with a prompt", 'one JSON object a line: {"prompt": "..."}')
    return Prompts(rows=tuple(found.values()), duplicates=rows - len(without) - len(found), without=tuple(without))


def _row(value: object, default_id: str) -> PromptRow | None:
    """The prompt of a line, None if it holds none that can be asked."""
    try:
        line = _Line.model_validate(value)
    except ValidationError:
        return None
    messages = line.asked()
    name = str(line.id) if line.id is not None else default_id
    return PromptRow(id=name, messages=messages, group=line.group) if messages else None
