"""JSONL files of chat rows, one object per line.

    {"messages": [{"role": "user", "content": "Who will win?"}, {"role": "assistant", "content": "Nobody knows yet."}],
     "kind": "refusal", "category": "indeterminate", "split": "train", "group": "winner-1"}

Needed: `messages` (a list of {role, content} that ends with the user's turn or the reply to it)
and `kind` (refusal, contrast or benign); `category` for refusals. Read when present: `id`, `source`, `split` (train,
validation or calibrate, test), `expected` (refuse or respond, checked against `kind`), `subcategory`, `group` (rows
made from one another; one name space over all files of a source). Other keys are ignored: rows come from many tools.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from demur.base.rows import read_rows
from demur.core.errors import DataError
from demur.core.example import Example, Expected, Kind, Message, Role, Split

_SPLITS: dict[str, Split] = {"train": "train", "validation": "calibrate", "calibrate": "calibrate", "test": "test"}


class _Turn(BaseModel):
    role: Role
    content: str = Field(min_length=1)


class _Row(BaseModel):
    model_config = ConfigDict(extra="ignore")

    messages: tuple[_Turn, ...]
    kind: Kind
    id: str | None = None
    source: str | None = None
    split: Literal["train", "validation", "calibrate", "test"] | None = None
    expected: Expected | None = None
    category: str | None = None
    subcategory: str | None = None
    group: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class JsonlSource:
    """Rows of one or more JSONL files in a folder, in file order.

    Categories are checked against the taxonomy by the data stage, which knows it; everything else here, with the line.
    """

    folder: Path
    files: tuple[str, ...]  # names inside the folder
    kinds: tuple[Kind, ...] | None = None  # keep only these; None: all
    include_categories: tuple[str, ...] | None = None  # keep only these, and rows without a category; None: all
    exclude_sources: tuple[str, ...] = ()  # drop rows whose `source` is one of these
    use_splits: bool = True  # keep the rows' own splits; False: leave splitting to the data stage

    def read(self) -> Iterator[Example]:
        """The rows that pass the filters. Raises DataError naming file, line, value and remedy."""
        for name in self.files:
            path = self.folder / name
            for raw in read_rows(path):
                example = self._example(raw.value, raw.where, f"{path.stem}:{raw.number}")
                if self._wanted(example):
                    yield example

    def _example(self, value: object, where: str, default_id: str) -> Example:
        """One line as an example; label, kind and category are held against each other."""
        row = _row(value, where)
        try:
            example = Example(
                id=row.id or default_id,
                source=row.source or default_id.rpartition(":")[0],
                messages=tuple(Message(role=m.role, content=m.content) for m in row.messages),
                kind=row.kind,
                category=row.category,
                subcategory=row.subcategory,
                group=row.group,
                split=_SPLITS[row.split] if row.split and self.use_splits else None,
            )
        except DataError as e:
            raise DataError(f"{where}: {e.message}", e.hint) from None
        if row.expected not in (None, example.expected):
            raise DataError(
                f"{where}: row {example.id!r} is of kind {row.kind!r} but expected {row.expected!r}",
                "refusals are expected to 'refuse', contrast and benign rows to 'respond': correct one of them",
            )
        return example

    def _wanted(self, example: Example) -> bool:
        if self.kinds is not None and example.kind not in self.kinds:
            return False
        if self.include_categories is not None and example.category not in (None, *self.include_categories):
            return False
        return example.source not in self.exclude_sources


def parsed(line: str, where: str) -> Any:
    """The value of one JSON line. Raises DataError naming `where`."""
    try:
        return json.loads(line)
    except json.JSONDecodeError as e:
        raise DataError(f"{where} is not JSON: {e.msg}", "one JSON object per line; is it cut off?") from None


def _row(value: object, where: str) -> _Row:
    """A checked row. Raises DataError naming place, key and value of the first fault."""
    try:
        return _Row.model_validate(value)
    except ValidationError as e:
        first = e.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        shown = repr(first["input"])
        got = shown if len(shown) <= 80 else shown[:77] + "..."
        raise DataError(
            f"{where}: {key or 'the row'}: {first['msg']} (got {got})", "correct the row; the format is in docs/data.md"
        ) from None
