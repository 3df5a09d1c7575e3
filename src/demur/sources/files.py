"""The source of rows in files: JSONL, a JSON array, CSV, TSV, Parquet, Arrow, and folders saved by
the package `datasets`.

1. The format is recognised by content (demur.base.rows), the conversation by its keys
   (demur.core.rows.shapes), the label by the rows' own columns or the source's settings
   (demur.core.rows.labels). docs/data.md shows all of them.
2. Read when present: `id`, `source`, `split` (train, validation or calibrate, test), `subcategory`,
   `group` (rows made from one another), `session` or `conversation_id` (requests of one user's
   session), `count` (requests that a row stands for). Groups and sessions are one name space over
   all files of a source. Also the facets that rows say themselves (TOLD of demur.core.rows.facets).
   Other keys are ignored: rows come from many tools.
"""

from __future__ import annotations

import codecs
import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from demur.base.errors import ConfigError, DataError
from demur.base.rows import RawRow, read_rows
from demur.core.example import Example, Kind, Split
from demur.core.rows.facets import told_traits
from demur.core.rows.labels import (
    LabelRule,
    RowLabel,
    UnknownLabel,
    cell,
    describe_unknown_label,
    label_row,
    read_count,
    read_session,
)
from demur.core.rows.shapes import read_conversation, read_prefix

_SPLITS: Mapping[str, Split] = {
    "train": "train",
    "validation": "calibrate",
    "calibrate": "calibrate",
    "test": "test",
}
_ID_DIGITS = 12  # of the digest that names a row without an id: 48 bits


@dataclass(frozen=True, kw_only=True, slots=True)
class FileSource:
    """Rows of one or more files in a folder, in file order.

    A row without an id is named by a digest of its turns. Categories are checked against the
    taxonomy by the data stage; everything else here. Raises ConfigError on an unknown encoding and
    on an invalid label rule.
    """

    folder: Path
    files: tuple[str, ...]  # names inside the folder: files, or folders that `datasets` saved
    rows_kind: Kind | None = None  # of every row without a label
    category: str | None = None  # of every row without one
    # value -> respond, refuse, contrast, skip or a category
    label_map: Mapping[str, str] = field(default_factory=dict)
    # our name -> the file's column; "": there is none
    columns: Mapping[str, str] = field(default_factory=dict)
    categories: Mapping[str, str] = field(default_factory=dict)  # the file's category -> ours
    encoding: str | None = None  # of text files without a byte-order mark; None: UTF-8
    kinds: tuple[Kind, ...] | None = None  # keep only these; None: all
    # keep only these, and rows without a category; None: all
    include_categories: tuple[str, ...] | None = None
    exclude_sources: tuple[str, ...] = ()  # drop rows whose `source` is one of these
    use_splits: bool = True  # keep the rows' own splits; False: leave splitting to the data stage

    def __post_init__(self) -> None:
        self._rule()  # raises ConfigError
        try:
            codecs.lookup(self.encoding or "utf-8")
        except LookupError:
            raise ConfigError(
                f"encoding {self.encoding!r} is unknown", 'e.g. "cp1252", "latin-1"'
            ) from None

    def read(self) -> Iterator[Example]:
        """The rows that pass the filters. Raises DataError naming file, line or row, and value."""
        found = {name: list(self._file(name)) for name in dict.fromkeys(self.files)}
        # id -> the number of files that have it: within a file ids are unique
        files_with = Counter(e.id for rows in found.values() for e in rows)
        for name, rows in found.items():
            for example in rows:
                if self._wanted(example):
                    # Many tools number the rows of a file from 1: an id that several files have
                    # is put behind the file's name.
                    shared = files_with[example.id] > 1
                    row_id = f"{Path(name).stem}:{example.id}" if shared else example.id
                    yield replace(example, id=row_id)

    def _rule(self) -> LabelRule:
        """The label rule of the source's settings. Raises ConfigError on an invalid one."""
        return LabelRule(
            rows_kind=self.rows_kind,
            category=self.category,
            label_map=self.label_map,
            columns=self.columns,
            categories=self.categories,
        )

    def _file(self, name: str) -> Iterator[Example]:
        """The labelled rows of one file, each with an id that no other row of the file has."""
        rule, raws = self._rule(), list(read_rows(self.folder / name, self.encoding))
        places: dict[str, str] = {}  # id -> line or row that has it
        copies: Counter[str] = Counter()  # rows so far by the digest that names them
        for raw in raws:
            try:
                label = label_row(raw.value, rule)
                example = self._example(raw, label, rule, Path(name).stem) if label else None
            except UnknownLabel as e:
                seen, paste = describe_unknown_label(
                    e.column, (r.value.get(e.column) for r in raws)
                )
                raise DataError(f"{raw.where}: {e.message}; {seen}", paste) from None
            except DataError as e:
                raise DataError(f"{raw.where}: {e.message}", e.hint) from None
            if example is None:
                continue
            if cell(raw.value, rule, "id") is None:
                # Equal rows have equal digests: from the second on a number is added.
                copies[example.id] += 1
                n = copies[example.id]
                example = replace(example, id=f"{example.id}-{n}") if n > 1 else example
            elif example.id in places:
                hint = (
                    "give each row an id of its own, or say that there is none: columns = { id "
                    '= "" }'
                )
                raise DataError(
                    f"{raw.where}: id {example.id!r} stands at {places[example.id]} too", hint
                )
            places[example.id] = raw.where
            yield example

    def _example(self, raw: RawRow, label: RowLabel, rule: LabelRule, stem: str) -> Example:
        """A row as an example; stem: of the file's name. Raises DataError without a prompt."""
        turns = read_conversation(raw.value, self.columns).turns
        text = "\n".join(f"{m.role}\t{m.content}" for m in turns)
        digest = hashlib.sha256(text.encode("utf-8")).hexdigest()[:_ID_DIGITS]
        return Example(
            id=cell(raw.value, rule, "id") or f"{stem}:{digest}",
            source=cell(raw.value, rule, "source") or stem,
            messages=turns,
            kind=label.kind,
            category=label.category,
            subcategory=cell(raw.value, rule, "subcategory"),
            group=cell(raw.value, rule, "group"),
            session=read_session(raw.value, rule),
            count=read_count(raw.value, rule),
            split=self._split(raw, rule),
            traits=told_traits(lambda name: cell(raw.value, rule, name)),
            prefix=self._prefix(raw, label, rule),
        )

    def _prefix(self, raw: RawRow, label: RowLabel, rule: LabelRule) -> str | None:
        """The beginning of an answer to turn back from; of rows to be answered there is none."""
        cell(raw.value, rule, "prefix")  # a column that is named must be there
        own = read_prefix(raw.value, rule.columns.get("prefix"))
        return own if label.kind == "refusal" else None

    def _split(self, raw: RawRow, rule: LabelRule) -> Split | None:
        """The row's own split; None: the data stage splits. Raises DataError on an unknown one."""
        own = cell(raw.value, rule, "split")
        if own is not None and own not in _SPLITS:
            raise DataError(
                f"split: {own!r} is no split", f"splits are {', '.join(_SPLITS)}, or none"
            )
        # The parts of a saved folder may have any name: an unknown one counts as no split.
        return _SPLITS.get(own or raw.part or "") if self.use_splits else None

    def _wanted(self, example: Example) -> bool:
        """Whether an example passes the filters by kind, category and source."""
        if self.kinds is not None and example.kind not in self.kinds:
            return False
        if self.include_categories is not None and example.category not in (
            None,
            *self.include_categories,
        ):
            return False
        return example.source not in self.exclude_sources
