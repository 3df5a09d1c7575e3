"""The source of rows in Hugging Face datasets, with an adapter per column layout.

Column layouts as documented on the dataset pages:

1. allenai/coconot: configs `original` and `contrast` with id, category, subcategory, prompt,
   response; `pref` with prompt, chosen, rejected.
2. HuggingFaceH4/ultrachat_200k: prompt, prompt_id, messages; splits train_sft, test_sft, ...
3. XSTest copies: prompt, type, and label safe/unsafe in walledai/XSTest, which has only a test
   split; without label, a type that begins with "contrast" is unsafe.
The only module of the sources that imports `datasets`.
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
from demur.core.rows.facets import told_traits
from demur.core.rows.labels import (
    LabelRule,
    UnknownLabel,
    cell,
    describe_unknown_label,
    label_row,
    read_count,
    read_session,
)
from demur.core.rows.shapes import Row, read_conversation, read_prefix
from demur.core.rows.turns import check_text

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
    # of every row, where the dataset has no column for it; in TOML `kind` names this class
    rows_kind: Kind | None = None
    category: str | None = None  # of every row, where the dataset has no column for it
    # adapter "columns": our name -> the dataset's column
    columns: Mapping[str, str] = field(default_factory=dict)
    # adapters "columns" and "chat": see sources.files
    label_map: Mapping[str, str] = field(default_factory=dict)
    categories: Mapping[str, str] = field(default_factory=dict)  # the dataset's category -> ours

    def read(self) -> Iterator[Example]:
        """The rows, in the dataset's order; ids are "<name>:<config>:<split>:<row>".

        Raises DataError when the dataset cannot be loaded, and naming the row when a row does not
        fit the adapter.
        """
        prefix = ":".join(part for part in (self.name, self.config, self.split) if part)
        adapt = _ADAPTERS[self.adapter]
        rows = load_rows(self.name, self.config, self.split, self.revision)
        # select() makes a view: no more rows are read than the limit
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
                # the adapters of fixed layouts name the row themselves
                message = e.message if e.message.startswith(where) else f"{where}: {e.message}"
                raise DataError(message, e.hint) from None
            if example is not None:
                yield replace(example, split=self.use_as)


def load_rows(name: str, config: str | None, split: str, revision: str | None = None) -> Any:
    """Load one split as a `datasets.Dataset`, from the hub or a local copy.

    Raises DataError when it cannot be loaded.
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
    """Load a split of a folder made by save_to_disk. Raises ValueError on an unknown split."""
    found = datasets.load_from_disk(name)
    if not isinstance(found, datasets.DatasetDict):  # saved without splits: all rows
        return found
    if split not in found:
        raise ValueError(f"it has the splits {', '.join(found)}")
    return found[split]


def _coconot(row: Row, where: str, source: HubSource) -> Example:
    """A row of CoCoNot: the config gives its kind, `chosen` or `response` its reply, if not empty.

    Raises ConfigError on a config that gives no kind, DataError on an unknown category.
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
    """A conversation in any shape, with all its turns; benign unless the source says otherwise."""
    # columns of these names mean other things in chat datasets: switched off
    names = ("kind", "label", "expected", "category", "session", "count")
    columns = dict.fromkeys(names, "")
    return _by_label_rule(row, where, source, LabelRule(columns=columns))


def _xstest(row: Row, where: str, source: HubSource) -> Example:
    """A row of XSTest: an unsafe prompt is a refusal, a safe one a contrast; without a reply.

    Raises DataError on an unknown label.
    """
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
    """A row of any table with a prompt column.

    `columns` names the columns of prompt, reply, kind, label, category, subcategory, group, session
    and count; kind and category may instead be the same for all rows, label_map maps labels, and
    `categories` renames.
    """
    named = source.columns
    if "messages" not in named:
        named = {"prompt": "prompt", **named}
    # the row under our own names; a missing column raises KeyError, which `read` reports
    renamed = {name: row[column] for name, column in named.items()}
    return _by_label_rule(renamed, where, source, LabelRule())


def _by_label_rule(row: Row, where: str, source: HubSource, rule: LabelRule) -> Example | None:
    """A row labelled by its source's settings and `rule`; None where label_map leaves it out."""
    kind = source.rows_kind or (
        "benign" if source.adapter == "chat" and not source.label_map else None
    )
    columns = {} if source.label_map else rule.columns
    whole = replace(
        rule, rows_kind=kind, category=source.category, label_map=source.label_map, columns=columns
    )
    label = label_row(row, whole)
    if label is None:
        return None
    return Example(
        id=where,
        source=source.name,
        messages=read_conversation(row).turns,
        kind=label.kind,
        category=source.categories.get(label.category, label.category) if label.category else None,
        subcategory=cell(row, LabelRule(), "subcategory"),
        group=cell(row, LabelRule(), "group"),
        session=read_session(row, rule),
        count=read_count(row, rule),
        traits=told_traits(lambda name: cell(row, LabelRule(), name)),
        prefix=read_prefix(row) if label.kind == "refusal" else None,
    )


_ADAPTERS: dict[AdapterName, Callable[[Row, str, HubSource], Example | None]] = {
    "coconot": _coconot,
    "chat": _chat,
    "xstest": _xstest,
    "columns": _columns,
}


def _turns(prompt: object, reply: object, where: str) -> tuple[Message, ...]:
    """A user's turn and the reply, if there is one that is not empty. Raises DataError without a
    prompt.
    """
    if not isinstance(prompt, str) or not prompt.strip():
        raise DataError(
            f"{where} has prompt {prompt!r}", "a prompt is a text that is not empty; drop the row"
        )
    user = Message(role="user", content=check_text(prompt, "prompt"))
    if not isinstance(reply, str) or not reply.strip():
        return (user,)
    return (user, Message(role="assistant", content=check_text(reply, "reply")))
