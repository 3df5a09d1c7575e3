"""Files of prefixes: beginnings of answers that should not have been written, for `demur train` to
turn back from.

A row holds a prompt in any shape of docs/data.md, and a prefix: `prefix`, `unsafe_reply` or
`unsafe_response`, or a reply beside `is_safe` = false. Rows with `is_safe` = true are passed over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from demur.base.errors import DataError
from demur.base.rows import read_rows
from demur.core.example import Example, Split, fold, prompt_key
from demur.core.rows.shapes import is_unsafe, read_conversation, read_prefix
from demur.core.training.turn_back import may_turn_back


@dataclass(frozen=True, kw_only=True, slots=True)
class PrefixRow:
    """One row of a file of prefixes."""

    where: str  # file and line
    prompt: str  # as prompt_key gives it
    prefix: str


def read_prefixes(path: Path) -> list[PrefixRow]:
    """Read a file of prefixes. Raises DataError naming file and line of a row without prompt or
    prefix.
    """
    found = []
    for raw in read_rows(path):
        if "is_safe" in raw.value and not is_unsafe(raw.value):
            continue
        try:
            turns = read_conversation(raw.value).turns
            prefix = read_prefix(raw.value)
        except DataError as e:
            raise DataError(f"{raw.where}: {e.message}", e.hint) from None
        if prefix is None:
            raise DataError(
                f"{raw.where}: there is no prefix: the row has the keys "
                f"{', '.join(map(repr, raw.value))}",
                'one JSON object a line: {"prompt": "...", "prefix": "..."}',
            )
        asked = turns[:-1] if turns[-1].role == "assistant" else turns
        found.append(
            PrefixRow(
                where=raw.where, prompt="\n".join(fold(m.content) for m in asked), prefix=prefix
            )
        )
    return found


def add_prefixes(
    path: Path, learnt: Sequence[Example], held_out: Mapping[Split, Sequence[Example]]
) -> list[Example]:
    """The training rows, those to be refused with the prefix that the file has for their prompt.

    Of several prefixes of a prompt the first is taken; a row keeps its own. held_out: the rows of
    other splits. Raises DataError if the file has a prefix for one of these, or for none of
    `learnt`.
    """
    rows = read_prefixes(path)
    splits = {prompt_key(e): split for split, some in held_out.items() for e in some}
    for row in rows:
        if row.prompt in splits:
            raise DataError(
                f"{row.where}: the prompt is one of the {splits[row.prompt]} split, whose answers "
                "are never learnt",
                "leave the row out of the file of prefixes",
            )
    by_prompt = {row.prompt: row.prefix for row in reversed(rows)}
    found = [
        replace(e, prefix=by_prompt[key])
        if may_turn_back(e) and not e.prefix and (key := prompt_key(e)) in by_prompt
        else e
        for e in learnt
    ]
    if found == list(learnt):
        raise DataError(
            f"{path}: none of its {len(rows)} prompts is that of a training row that is to be "
            "refused",
            "prefixes belong to refusals of data/train.jsonl: the same prompt, word for word",
        )
    return found
