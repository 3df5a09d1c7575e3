"""Prompts from Python objects: texts, rows, data frames and datasets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from demur.base.errors import DataError
from demur.core.example import Message
from demur.core.ports import Prompt
from demur.core.rows.turns import check_text
from demur.store.prompts_file import prompt_in


def prompts_of(rows: Iterable[Any]) -> dict[str, Prompt]:
    """Read prompts by id, in their order. A row without an id has its number as id.

    A text is one user message; a row is read as in docs/data.md, without a reply at its end. Raises
    DataError, naming the row by its number, for one without a prompt and for an id used twice.
    """
    # a DataFrame, which iterates over its columns' names
    if hasattr(rows, "columns") and hasattr(rows, "to_dict"):
        rows = rows.to_dict("records")
    found: dict[str, Prompt] = {}
    for number, row in enumerate(rows):
        name, messages = _prompt(row, f"row {number}")
        # an id that looks like a number may clash with a row's number: that is an error, too
        name = str(number) if name is None else name
        if name in found:
            raise DataError(
                f"row {number}: another row has the id {name!r}", "give each row an id of its own"
            )
        found[name] = messages
    return found


def _prompt(row: Any, where: str) -> tuple[str | None, Prompt]:
    """Return a row's id, or None if it has none, and its prompt."""
    if isinstance(row, str):
        if not row.strip():
            raise DataError(f"{where}: there is no prompt", "leave out empty texts")
        return None, (Message(role="user", content=check_text(row, "prompt")),)
    if not isinstance(row, Mapping):
        raise DataError(
            f"{where} is {type(row).__name__}", "give texts, or rows such as {'prompt': '...'}"
        )
    turns, name, _ = prompt_in(row, where)
    return name, turns
