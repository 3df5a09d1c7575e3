"""Reading the conversation of a row, by the keys it has: docs/data.md has the table.

Looked for in this order, a key without a value counting as absent: `messages`; `conversations`
(ShareGPT); `instruction` (Alpaca); `chosen` (preference pairs); `prompt` or another name for it,
with a reply or without. A caller may name the columns instead.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from demur.base.errors import DataError
from demur.core.example import Message
from demur.core.rows.requests import requests_of
from demur.core.rows.turns import check_text, is_list, read_content, read_turns

Row = Mapping[str, Any]
Shape = Literal["messages", "conversations", "instruction", "preference", "prompt"]

LISTS: tuple[tuple[str, Shape], ...] = (
    ("messages", "messages"),
    ("conversations", "conversations"),
    ("conversation", "conversations"),
)
PROMPTS = ("prompt", "question", "request", "query", "input")
REPLIES = ("completion", "response", "answer", "output", "reply")
# The beginning of an answer that should not have been written. Also a reply that `is_safe` calls
# unsafe, as BeaverTails writes it.
PREFIXES = ("prefix", "unsafe_reply", "unsafe_response")


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversation:
    """The conversation of a row, and the shape that it was read from."""

    shape: Shape
    turns: tuple[Message, ...]  # ends with the user's turn, or with the reply


def read_conversation(row: Row, columns: Mapping[str, str] | None = None) -> Conversation:
    """Read the conversation of a row, whatever its shape.

    columns: `messages`, `prompt`, `reply` or `system` -> the row's own name for it. Raises
    DataError naming the key and what is wrong with it, or the keys that are there if none holds a
    conversation.
    """
    named = {word: column for word, column in (columns or {}).items() if column}
    # the row under our names: a named column goes before one that happens to have our name
    shape, turns = _turns(
        {**row, **{word: row.get(column) for word, column in named.items()}}, named
    )
    system = row.get(named.get("system", "system"))
    if isinstance(system, str) and system.strip() and not (turns and turns[0].role == "system"):
        turns = (Message(role="system", content=check_text(system, "system")), *turns)
    return Conversation(shape=shape, turns=turns)


def read_prefix(row: Row, column: str | None = None) -> str | None:
    """The beginning of an answer to turn back from; None if the row has none.

    column: the row's own name for it. Raises DataError on a text that no file of ours could hold.
    """
    if column is not None:
        return text_cell(row, column)
    key = next((k for k in PREFIXES if has_value(row.get(k))), None)
    if key is None and is_unsafe(row):
        key = _reply_key(row, "")
    return text_cell(row, key) if key else None


def is_unsafe(row: Row) -> bool:
    """Whether a row says of its reply that it is unsafe: BeaverTails' column `is_safe`."""
    return as_text(row.get("is_safe")) in ("false", "False", "0")


def has_value(value: object) -> bool:
    """Whether a cell has a value: None, NaN (which tables write for it) and blank texts are
    none.
    """
    if isinstance(value, str):
        return bool(value.strip())
    return value is not None and not (isinstance(value, float) and math.isnan(value))


def _turns(row: Row, named: Mapping[str, str]) -> tuple[Shape, tuple[Message, ...]]:
    if "prompt" not in named:  # a caller who names the prompt means that one
        for key, shape in LISTS:
            if has_value(row.get(key)):
                return shape, read_turns(_listed(row[key], key), key)
        if has_value(row.get("instruction")):
            return "instruction", _instruction(row)
    if has_value(row.get("chosen")):
        return "preference", _chosen(row)
    key = _prompt_key(row)
    reply_key = _reply_key(row, key)
    if reply_key and is_unsafe(row):
        reply_key = None  # never learnt: it is the row's prefix
    prompt = _asked(row[key], key)
    return "prompt", (*prompt, *(_replied(row[reply_key], reply_key) if reply_key else ()))


def _reply_key(row: Row, prompt_key: str) -> str | None:
    """The key that holds the reply; None if there is none."""
    keys = ("reply", *REPLIES)
    return next((k for k in keys if k != prompt_key and has_value(row.get(k))), None)


def _prompt_key(row: Row) -> str:
    """The key that holds the prompt. Raises DataError if it is blank, or if there is none."""
    key = next((k for k in PROMPTS if has_value(row.get(k))), None)
    if key is not None:
        return key
    blank = [k for k in (*(k for k, _ in LISTS), "instruction", *PROMPTS) if k in row]
    if blank:
        raise DataError(f"{blank[0]}: it is blank", "drop the row, or give it a prompt")
    raise DataError(
        f"there is no prompt: the row has the keys {', '.join(map(repr, row)) or 'none'}",
        'name the column: columns = { prompt = "COLUMN" }; docs/data.md lists what is read as it '
        "is",
    )


def _listed(value: object, key: str) -> Sequence[Any]:
    """A list of turns, also where a table holds it as JSON text."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise DataError(
                f"{key}: {value!r:.60} is not a list of turns", "in a table, write the list as JSON"
            ) from None
    if not is_list(value):
        raise DataError(
            f"{key}: {value!r:.60} is not a list of turns", 'a list of {"role", "content"}'
        )
    return value


def _asked(value: object, key: str) -> tuple[Message, ...]:
    """A prompt: a text, or the turns up to it."""
    if is_list(value):
        return read_turns(value, key)
    text = read_content(value, key)
    return (Message(role="user", content=text or ""),)


def _replied(value: object, key: str) -> tuple[Message, ...]:
    """A reply: a text, or the turns that follow the prompt."""
    if is_list(value):
        return read_turns(value, key)
    text = read_content(value, key)
    return (Message(role="assistant", content=text),) if text and text.strip() else ()


def _instruction(row: Row) -> tuple[Message, ...]:
    """Alpaca: an instruction, perhaps with an input below it, earlier exchanges, and the output."""
    parts = [read_content(row[k], k) for k in ("instruction", "input") if has_value(row.get(k))]
    asked = Message(role="user", content="\n".join(t for t in parts if t is not None))
    reply = next((_replied(row[k], k) for k in REPLIES if has_value(row.get(k))), ())
    earlier = row.get("history") or ()
    if not is_list(earlier) or not all(is_list(pair) and len(pair) == 2 for pair in earlier):
        raise DataError(
            f"history: {earlier!r:.60} is not a list of exchanges", "a list of [request, reply]"
        )
    past: list[Message] = []
    for n, (request, answer) in enumerate(earlier):
        turns = [{"role": "user", "content": request}, {"role": "assistant", "content": answer}]
        past += read_turns(turns, f"history.{n}")
    return (*past, asked, *reply)


def _chosen(row: Row) -> tuple[Message, ...]:
    """A preference pair: the chosen answer is the reply. It may repeat the whole conversation."""
    chosen = row["chosen"]
    prompt = next((k for k in PROMPTS if has_value(row.get(k))), None)
    if isinstance(chosen, str):
        if prompt is None:
            raise DataError(
                f"chosen: {chosen!r:.60} is a whole dialogue in one text, or lacks its prompt",
                "give the prompt a column of its own, or write the turns as a list",
            )
        return (*_asked(row[prompt], prompt), *_replied(chosen, "chosen"))
    turns = read_turns(_listed(chosen, "chosen"), "chosen")
    whole = any(m.role == "user" for m in turns)
    return turns if whole or prompt is None else (*_asked(row[prompt], prompt), *turns)


def as_text(value: object) -> str | None:
    """A value as it is written in a label_map: 1, 1.0 and "1" are "1", True is "true"; None if
    nothing is there.
    """
    if not has_value(value):
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def text_cell(row: Row, column: str) -> str | None:
    """The value of a column as text, without outer space; None if it is blank or not there.

    Raises DataError on a text that no file of ours could hold.
    """
    text = as_text(row.get(column))
    return text if text is None else check_text(text, column)


def count_cell(row: Row, column: str = "count") -> int:
    """The number of requests that a row stands for: 1 if it has no such column. Raises DataError,
    naming column and value, on a cell that is no whole number of 1 or more.
    """
    return requests_of(as_text(row[column]), row[column], column) if column in row else 1


def session_cell(row: Row) -> str | None:
    """The session that a row's request came in: its column `session`, else `conversation_id`."""
    own = text_cell(row, "session")
    return own if own is not None else text_cell(row, "conversation_id")
