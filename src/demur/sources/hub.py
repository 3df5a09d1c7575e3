"""Hugging Face datasets, through an adapter per column layout. The only file that names `datasets`.

Column layouts as documented on the dataset pages: allenai/coconot (configs `original` and `contrast`: id, category,
subcategory, prompt, response; `pref`: prompt, chosen, rejected), HuggingFaceH4/ultrachat_200k (prompt, prompt_id,
messages; splits train_sft, test_sft, ...), XSTest copies (prompt, type, and label safe/unsafe in walledai/XSTest,
which has only a test split; without label, a type that begins with "contrast" is unsafe).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

import datasets

from demur.core.errors import ConfigError, DataError
from demur.core.example import Example, Kind, Message, Role, Split

Row = Mapping[str, Any]
AdapterName = Literal["coconot", "chat", "xstest", "columns"]

_COCONOT_KINDS: dict[str | None, Kind] = {"original": "refusal", "contrast": "contrast", "pref": "contrast"}
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
    use_as: Split | None = None  # put every row in this split; None: leave splitting to the data stage
    limit: int | None = None  # read only the first rows
    kind: Kind | None = None  # of every row, where the dataset has no column for it
    category: str | None = None  # of every row, where the dataset has no column for it
    columns: Mapping[str, str] = field(default_factory=dict)  # adapter "columns": our word -> the dataset's column
    categories: Mapping[str, str] = field(default_factory=dict)  # the dataset's category -> ours

    def read(self) -> Iterator[Example]:
        """The rows, in the dataset's order; ids are "<name>:<config>:<split>:<row>".

        Raises DataError when the dataset cannot be had, and naming the row when a row does not fit the adapter.
        """
        prefix = ":".join(part for part in (self.name, self.config, self.split) if part)
        adapt = _ADAPTERS[self.adapter]
        rows = load_rows(self.name, self.config, self.split, self.revision)
        some = rows if self.limit is None else rows.select(range(min(self.limit, len(rows))))
        for number, row in enumerate(some):
            where = f"{prefix}:{number}"
            try:
                yield replace(adapt(row, where, self), split=self.use_as)
            except KeyError as e:
                columns = ", ".join(rows.column_names)
                raise DataError(
                    f"{where} has no column {e.args[0]!r}, which adapter {self.adapter!r} reads",
                    f"its columns are {columns}; another adapter, or adapter = 'columns' with your own mapping",
                ) from None


def load_rows(name: str, config: str | None, split: str, revision: str | None = None) -> Any:
    """A dataset's rows as the package `datasets` gives them. Raises DataError when they cannot be had."""
    try:
        return datasets.load_dataset(name, config, split=split, revision=revision)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as e:
        reason = str(e).splitlines()[0] if str(e) else type(e).__name__
        raise DataError(
            f"cannot load dataset {name!r} (config {config}, split {split}): {reason}",
            "check name, config and split; a gated dataset needs a login; without a network give a local folder",
        ) from None


def _coconot(row: Row, where: str, source: HubSource) -> Example:
    """CoCoNot: its config says whether rows are refusals; `chosen` or `response` is the reply, if not empty."""
    kind = source.kind or _COCONOT_KINDS.get(source.config)
    if kind is None:
        raise ConfigError(
            f"CoCoNot config {source.config!r} does not tell whether its rows are to be refused",
            f"config is one of {[str(c) for c in _COCONOT_KINDS]}; or set kind = 'refusal' or 'contrast'",
        )
    category = _COCONOT_CATEGORIES.get(str(row["category"]).strip().casefold())
    if category is None:
        raise DataError(f"{where} has category {row['category']!r}", f"CoCoNot has {list(_COCONOT_CATEGORIES)}")
    reply = row["chosen"] if "chosen" in row else row.get("response")
    return Example(
        id=where,
        source=source.name,
        messages=_turns(row["prompt"], reply, where),
        kind=kind,
        category=category,
        subcategory=row.get("subcategory"),
    )


def _chat(row: Row, where: str, source: HubSource) -> Example:
    """Conversations: all their turns, the last reply being the one to learn."""
    messages = tuple(Message(role=_role(m["role"], where), content=m["content"]) for m in row["messages"])
    return Example(
        id=where, source=source.name, messages=messages, kind=source.kind or "benign", category=source.category
    )


def _xstest(row: Row, where: str, source: HubSource) -> Example:
    """XSTest: unsafe prompts are refusals, safe ones their contrast; it has no replies."""
    label = row["label"] if "label" in row else ("unsafe" if str(row["type"]).startswith("contrast") else "safe")
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


def _columns(row: Row, where: str, source: HubSource) -> Example:
    """Any table with a prompt column.

    `columns` says where prompt, reply, kind, category, subcategory and group are found; kind and category may instead
    be the same for all rows, and `categories` renames.
    """

    def cell(word: str, default: str | None = None) -> str | None:
        return row[source.columns[word]] if word in source.columns else default

    kind = cell("kind", source.kind)
    if kind not in ("refusal", "contrast", "benign"):
        raise DataError(
            f"{where} has kind {kind!r}", "kind is 'refusal', 'contrast' or 'benign': a column, or one for all rows"
        )
    category = cell("category", source.category)
    return Example(
        id=where,
        source=source.name,
        messages=_turns(row[source.columns.get("prompt", "prompt")], cell("reply"), where),
        kind=cast(Kind, kind),
        category=source.categories.get(category, category) if category else None,
        subcategory=cell("subcategory"),
        group=cell("group"),
    )


_ADAPTERS: dict[AdapterName, Callable[[Row, str, HubSource], Example]] = {
    "coconot": _coconot,
    "chat": _chat,
    "xstest": _xstest,
    "columns": _columns,
}


def _turns(prompt: object, reply: object, where: str) -> tuple[Message, ...]:
    """One exchange; an empty or missing reply is no reply."""
    if not isinstance(prompt, str) or not prompt.strip():
        raise DataError(f"{where} has prompt {prompt!r}", "a prompt is a text that is not empty; drop the row")
    user = Message(role="user", content=prompt)
    if not isinstance(reply, str) or not reply.strip():
        return (user,)
    return (user, Message(role="assistant", content=reply))


def _role(value: str, where: str) -> Role:
    if value not in ("system", "user", "assistant"):
        raise DataError(f"{where} has a turn of role {value!r}", "roles are 'system', 'user' and 'assistant'")
    return cast(Role, value)
