"""Hugging Face datasets, through an adapter per column layout. The only file that names `datasets`.

Column layouts as documented on the dataset pages: allenai/coconot (configs `original` and
`contrast`: id, category, subcategory, prompt, response; `pref`: prompt, chosen, rejected),
HuggingFaceH4/ultrachat_200k (prompt, prompt_id, messages; splits train_sft, test_sft, ...), XSTest
copies (prompt, type, and label safe/unsafe in walledai/XSTest, which has only a test split; without
label, a type that begins with "contrast" is unsafe).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import datasets

from demur.base.columnar import is_saved
from demur.base.errors import ConfigError, DataError
from demur.core.example import Example, Kind, Message, Split
from demur.core.rows.labels import LabelRule, UnknownLabel, cell, describe_unknown_label, label_row
from demur.core.rows.shapes import read_conversation
from demur.core.rows.turns import check_text

Row = Mapping[str, Any]
AdapterName = Literal["coconot", "chat", "xstest", "columns"]

_COCONOT_KINDS: dict[str | None, Kind] = {
    "original": "refusal",
    "contrast": "contrast",
    "pref": "contrast",
}
_COCONOT_CATEGORIES = {
    "humanizing requests": "humanizing",
    "incomplete requests": "incomplete",
    "indeterminate requests": "indeterminate",
    "requests with safety concerns": "safety",
    "unsupported requests": "unsupported",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class HubSource:
    """One split of one dataset, by its name on the hub or by the path of a local copy."""

    name: str  # "allenai/coconot", or a folder with parquet or JSON files
    adapter: AdapterName
    config: str | None = None  # "original", "contrast", ...
    split: str = "train"  # the dataset's own name of the split to read
    revision: str | None = None  # branch, tag or commit, for runs that can be repeated
    # put every row in this split; None: leave splitting to the data stage
    use_as: Split | None = None
    limit: int | None = None  # read only the first rows
    rows_kind: Kind | None = (
        None  # of every row, where the dataset has no column for it; `kind` names the class in TOML
    )
    category: str | None = None  # of every row, where the dataset has no column for it
    # adapter "columns": our word -> the dataset's column
    columns: Mapping[str, str] = field(default_factory=dict)
    # adapters "columns" and "chat": see sources.files
    label_map: Mapping[str, str] = field(default_factory=dict)
    categories: Mapping[str, str] = field(default_factory=dict)  # the dataset's category -> ours

    def read(self) -> Iterator[Example]:
        """The rows, in the dataset's order; ids are "<name>:<config>:<split>:<row>".

        Raises DataError when the dataset cannot be had, and naming the row when a row does not fit
        the adapter.
        """
        prefix = ":".join(part for part in (self.name, self.config, self.split) if part)
        adapt = _ADAPTERS[self.adapter]
        rows = load_rows(self.name, self.config, self.split, self.revision)
        some = rows if self.limit is None else rows.select(range(min(self.limit, len(rows))))
        for number, row in enumerate(some):
            where = f"{prefix}:{number}"
            try:
                example = adapt(row, where, self)
            except KeyError as e:
                columns = ", ".join(rows.column_names)
                raise DataError(
                    f"{where} has no column {e.args[0]!r}, which adapter {self.adapter!r} reads",
                    f"its columns are {columns}; another adapter, or adapter = 'columns' with "
                    "your own mapping",
                ) from None
            except UnknownLabel as e:
                seen, paste = describe_unknown_label(
                    e.column, rows[e.column] if e.column in rows.column_names else ()
                )
                raise DataError(f"{where}: {e.message}; {seen}", paste) from None
            except DataError as e:
                said = e.message if e.message.startswith(where) else f"{where}: {e.message}"
                raise DataError(said, e.hint) from None
            if example is not None:
                yield replace(example, split=self.use_as)


def load_rows(name: str, config: str | None, split: str, revision: str | None = None) -> Any:
    """A dataset's rows as the package `datasets` gives them. Raises DataError when they cannot be
    had.
    """
    try:
        if is_saved(Path(name)):
            return _saved(name, split)
        return datasets.load_dataset(name, config, split=split, revision=revision)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as e:
        reason = str(e).splitlines()[0] if str(e) else type(e).__name__
        raise DataError(
            f"cannot load dataset {name!r} (config {config}, split {split}): {reason}",
            "check name, config and split; a gated dataset needs a login; without a network give "
            "a local folder",
        ) from None


def _saved(name: str, split: str) -> Any:
    """The rows of a folder made by save_to_disk; one that was saved without splits has one only."""
    found = datasets.load_from_disk(name)
    if not isinstance(found, datasets.DatasetDict):
        return found
    if split not in found:
        raise ValueError(f"it has the splits {', '.join(found)}")
    return found[split]


def _coconot(row: Row, where: str, source: HubSource) -> Example:
    """CoCoNot: its config says whether rows are refusals; `chosen` or `response` is the reply, if
    not empty.
    """
    kind = source.rows_kind or _COCONOT_KINDS.get(source.config)
    if kind is None:
        raise ConfigError(
            f"CoCoNot config {source.config!r} does not tell whether its rows are to be refused",
            f"config is one of {[str(c) for c in _COCONOT_KINDS]}; or set rows_kind = 'refusal' "
            "or 'contrast' in this source",
        )
    category = _COCONOT_CATEGORIES.get(str(row["category"]).strip().casefold())
    if category is None:
        raise DataError(
            f"{where} has category {row['category']!r}", f"CoCoNot has {list(_COCONOT_CATEGORIES)}"
        )
    reply = row["chosen"] if "chosen" in row else row.get("response")
    return Example(
        id=where,
        source=source.name,
        messages=_turns(row["prompt"], reply, where),
        kind=kind,
        category=category,
        subcategory=row.get("subcategory"),
    )


def _chat(row: Row, where: str, source: HubSource) -> Example | None:
    """Conversations in any shape: all their turns, the last reply being the one to learn. Benign
    unless told.
    """
    return _told(
        row,
        where,
        source,
        LabelRule(columns={"kind": "", "label": "", "expected": "", "category": ""}),
    )


def _xstest(row: Row, where: str, source: HubSource) -> Example:
    """XSTest: unsafe prompts are refusals, safe ones their contrast; it has no replies."""
    label = (
        row["label"]
        if "label" in row
        else ("unsafe" if str(row["type"]).startswith("contrast") else "safe")
    )
    if label not in ("safe", "unsafe"):
        raise DataError(f"{where} has label {label!r}", "XSTest's labels are 'safe' and 'unsafe'")
    return Example(
        id=where,
        source=source.name,
        messages=_turns(row["prompt"], None, where),
        kind="refusal" if label == "unsafe" else "contrast",
        category=source.category or "safety",
        subcategory=row.get("type"),
    )


def _columns(row: Row, where: str, source: HubSource) -> Example | None:
    """Any table with a prompt column.

    `columns` says where prompt, reply, kind, label, category, subcategory and group are found; kind
    and category may instead be the same for all rows, label_map translates labels, and `categories`
    renames.
    """
    named = (
        {"prompt": "prompt", **source.columns}
        if "messages" not in source.columns
        else source.columns
    )
    return _told({word: row[column] for word, column in named.items()}, where, source, LabelRule())


def _told(row: Row, where: str, source: HubSource, rule: LabelRule) -> Example | None:
    """A row by what its source says of it; None where label_map leaves it out."""
    kind = source.rows_kind or (
        "benign" if source.adapter == "chat" and not source.label_map else None
    )
    columns = {} if source.label_map else rule.columns
    whole = replace(
        rule, rows_kind=kind, category=source.category, label_map=source.label_map, columns=columns
    )
    ought = label_row(row, whole)
    if ought is None:
        return None
    return Example(
        id=where,
        source=source.name,
        messages=read_conversation(row).turns,
        kind=ought.kind,
        category=source.categories.get(ought.category, ought.category) if ought.category else None,
        subcategory=cell(row, LabelRule(), "subcategory"),
        group=cell(row, LabelRule(), "group"),
    )


_ADAPTERS: dict[AdapterName, Callable[[Row, str, HubSource], Example | None]] = {
    "coconot": _coconot,
    "chat": _chat,
    "xstest": _xstest,
    "columns": _columns,
}


def _turns(prompt: object, reply: object, where: str) -> tuple[Message, ...]:
    """One exchange; an empty or missing reply is no reply."""
    if not isinstance(prompt, str) or not prompt.strip():
        raise DataError(
            f"{where} has prompt {prompt!r}", "a prompt is a text that is not empty; drop the row"
        )
    user = Message(role="user", content=check_text(prompt, "prompt"))
    if not isinstance(reply, str) or not reply.strip():
        return (user,)
    return (user, Message(role="assistant", content=check_text(reply, "reply")))
