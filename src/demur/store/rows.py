"""Examples as JSONL: one object per line, the row format of the data page in the docs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, model_validator

from demur.base.boundary import Strict, validated
from demur.base.errors import DataError, DemurError
from demur.base.files import write_text
from demur.base.rows import read_rows
from demur.core.example import Example, Kind, Message, Split
from demur.core.rows.facets import TOLD
from demur.core.rows.linking import link_rows
from demur.store.run import RunFolder


def _id_text(value: object) -> object:
    """An id as text: whole numbers become their digits, since many programs number their rows.
    Raises ValueError on half of a character.
    """
    # A lone surrogate has no UTF-8, so no file of ours could hold the id. The error of `encode` is
    # a ValueError, which pydantic makes a fault of the row.
    if isinstance(value, str):
        value.encode("utf-8")
    # True is an int to Python, and no id
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


RowId = Annotated[str, BeforeValidator(_id_text)]  # of a row that people or their programs wrote


class ExampleRow(Strict):
    """One line of data/*.jsonl: a core Example with what is expected of it spelt out. Its split is
    the file's, and no field of the record that is read.
    """

    id: str
    source: str
    split: Split
    messages: tuple[Message, ...]
    category: str | None
    expected: Literal["refuse", "respond"]
    kind: Kind
    subcategory: str | None
    group: str | None
    session: str | None = None  # this and the next two are missing in files of older versions
    count: int = 1
    source_group: str | None = None
    traits: tuple[tuple[str, str], ...] = ()  # in the file each is a key of its own
    prefix: str | None = None  # left out of the file where there is none

    @model_validator(mode="before")
    @classmethod
    def _gathered(cls, row: Any) -> Any:
        """The keys that say a facet of the row, gathered as `traits`."""
        if not isinstance(row, dict) or "traits" in row or not row.keys() & set(TOLD):
            return row
        told = tuple((facet, row[facet]) for facet in TOLD if row.get(facet) is not None)
        return {key: value for key, value in row.items() if key not in TOLD} | {"traits": told}

    def to_core(self) -> Example:
        """The core record. Raises DataError if label and kind contradict each other."""
        example = Example(
            id=self.id,
            source=self.source,
            split=self.split,
            messages=self.messages,
            kind=self.kind,
            category=self.category,
            subcategory=self.subcategory,
            group=self.group,
            session=self.session,
            count=self.count,
            source_group=self.source_group,
            traits=self.traits,
            prefix=self.prefix,
        )
        if example.expected != self.expected:
            raise DataError(
                f"row {self.id!r} is of kind {self.kind!r} but expected {self.expected!r}",
                "correct one of them",
            )
        return example


def write_examples(path: Path, examples: Iterable[Example]) -> None:
    """Write examples atomically as JSONL. Every example must have a split."""
    write_text(path, examples_text(examples))


def examples_text(examples: Iterable[Example]) -> str:
    """Examples as JSONL, the text of a split's file."""
    return "".join(json.dumps(_row(e), ensure_ascii=False) + "\n" for e in examples)


def read_examples(path: Path) -> list[Example]:
    """Read a split written by write_examples. Raises DataError naming file and line of the first
    bad row.

    Versions without `count` did not write either which rows are linked: where such a file holds
    evidence, the links are found when it is read.
    """
    raws = list(read_rows(path))
    rows = [_checked(row.value, row.where) for row in raws]
    if not rows or rows[0].split == "train" or "count" in raws[0].value:
        return rows
    return link_rows(rows)


def read_policy_rows(
    folder: RunFolder, split: Split, sources: Sequence[str] | None = None
) -> list[Example]:
    """Read the rows of a split that are of these sources; of all sources where none is named.

    sources: None: those that the run's policy was calibrated on. Raises DataError on a source
    without a row there.
    """
    examples = read_examples(folder.split(split))
    if sources is None:
        # receipts of before there was this setting lack it: all sources
        made: Any = folder.require("calibrate").settings.get("sources", ())
        sources = made
    known = sorted({e.source for e in examples})
    if unknown := [s for s in sources if s not in known]:
        raise DataError(
            f"no row of the {split} split is of source {unknown[0]!r}",
            f"sources: {', '.join(known)}",
        )
    return [e for e in examples if not sources or e.source in sources]


def _checked(row: object, where: str) -> Example:
    try:
        return validated(ExampleRow, row, where, DataError).to_core()
    except DemurError as e:
        if e.message.startswith(where):
            raise
        raise DataError(f"{where}: {e.message}", e.hint) from None


def _row(e: Example) -> dict[str, object]:
    return {
        "id": e.id,
        "source": e.source,
        "split": e.split,
        "messages": [{"role": m.role, "content": m.content} for m in e.messages],
        "category": e.category,
        "expected": e.expected,
        "kind": e.kind,
        "subcategory": e.subcategory,
        "group": e.group,
        "session": e.session,
        "count": e.count,
        "source_group": e.source_group,
        **dict(e.traits),
        **({} if e.prefix is None else {"prefix": e.prefix}),
    }
