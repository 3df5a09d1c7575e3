"""Labels of rows: whether a row is to be refused, and as which category, by its own columns or by
its source.

1. `label_map` of the source translates the values of a column; it goes before everything else.
2. Else the row's own words count: `kind`, `label` or `expected`, in demur's words, and `category`.
3. Else `rows_kind` and `category` of the source hold for every row.

A value that none of these covers is an error that lists the values of the column: nothing is
guessed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from demur.base.errors import ConfigError, DataError
from demur.core.example import Kind
from demur.core.rows.facets import TOLD
from demur.core.rows.shapes import Row, as_text, count_cell, session_cell, text_cell
from demur.core.taxonomy import coconot

SKIP = "skip"
REFUSE = "refuse"  # also the category of the built-in taxonomy `single`
# demur's own words for what ought to happen, in a column or on the right side of a label_map.
KIND_WORDS: Mapping[str, Kind] = {
    "refusal": "refusal",
    "refuse": "refusal",
    "contrast": "contrast",
    "benign": "benign",
    "respond": "benign",
}
COLUMN_NAMES = (
    *("messages", "prompt", "reply", "system", "kind", "category", "label", "expected"),
    *("subcategory", "group", "session", "count", "id", "source", "split", "prefix", *TOLD),
)
_LABEL_COLUMNS = ("label", "kind", "category")
_LISTED = 12  # values that an error lists

# Other people's words for the two sides. Only ever proposed, never taken for granted.
_TO_REFUSE = (
    *(
        "harmful",
        "unsafe",
        "toxic",
        "malicious",
        "jailbreak",
        "adversarial",
        "bad",
        "reject",
        "rejected",
        "deny",
    ),
    *(
        "refused",
        "declined",
        "decline",
        "block",
        "blocked",
        "disallowed",
        "unanswerable",
        "forbidden",
        "attack",
    ),
)
_TO_ANSWER = (
    *(
        "harmless",
        "safe",
        "ok",
        "good",
        "answer",
        "answered",
        "comply",
        "complied",
        "compliance",
        "allow",
        "allowed",
    ),
    *("answerable", "normal", "none", "clean", "accept", "accepted", "permitted"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelRule:
    """How a source labels its rows. Raises ConfigError on columns that demur does not read, and on
    contradictions.
    """

    rows_kind: Kind | None = None  # of every row that does not tell itself
    category: str | None = None  # of every row that does not tell itself
    # value -> respond, refuse, contrast, skip or a category
    label_map: Mapping[str, str] = field(default_factory=dict)
    # our word -> the file's column; "": there is none
    columns: Mapping[str, str] = field(default_factory=dict)
    categories: Mapping[str, str] = field(default_factory=dict)  # the file's category -> ours

    def __post_init__(self) -> None:
        unknown = [word for word in self.columns if word not in COLUMN_NAMES]
        if unknown:
            raise ConfigError(
                f"columns: {unknown[0]!r} is not a column that demur reads",
                f"words are {', '.join(COLUMN_NAMES)}",
            )
        answered = {KIND_WORDS.get(w) for w in self.label_map.values()} & {"benign", "contrast"}
        if self.rows_kind == "refusal" and answered:
            raise ConfigError(
                "rows_kind says that every row is to be refused, label_map that some are to be "
                "answered",
                "leave rows_kind out, or map those values to 'skip'",
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class RowLabel:
    """A row's label: its kind, and its category."""

    kind: Kind
    category: str | None


class UnknownLabel(DataError):
    """A value of a label column that has no known meaning. `column`: the column's name."""

    def __init__(self, column: str, value: str) -> None:
        super().__init__(f"{column}: {value!r} does not tell whether to refuse")
        self.column = column


def label_row(row: Row, rule: LabelRule) -> RowLabel | None:
    """Label a row; None: its source leaves it out.

    Raises UnknownLabel, and DataError where nothing says whether to refuse, or two columns
    contradict each other.
    """
    if rule.label_map:
        return _mapped(row, rule)
    category = _own_category(row, rule) or rule.category
    kind = _own_kind(row, rule)
    if kind is None:
        raise DataError(
            "nothing tells whether to refuse: no kind, label or expected among "
            f"{', '.join(map(repr, row))}",
            'in the source: rows_kind = "refusal" and category = "...", or columns = { label = '
            '"COLUMN" } and '
            'label_map = { VALUE = "respond" }; or give each row its kind',
        )
    if cell(row, rule, "kind") is None and rule.rows_kind is None:
        if kind == "refusal":
            category = category or REFUSE
        elif category and cell(row, rule, "label") != "benign":
            kind = "contrast"  # to be answered, and of a category: it resembles a refusal
    return RowLabel(kind=kind, category=category)


def cell(row: Row, rule: LabelRule, word: str) -> str | None:
    """The value of a column as text, without outer space; None if it is blank.

    Raises DataError if a column that is named is not there, and on a text that no file of ours
    could hold.
    """
    column = rule.columns.get(word, word)
    if column and word in rule.columns and column not in row:
        raise DataError(
            f"there is no column {column!r} for {word}",
            f"its columns are {', '.join(map(repr, row))}",
        )
    return text_cell(row, column) if column else None


def read_count(row: Row, rule: LabelRule) -> int:
    """The number of requests that a row stands for, 1 without a column for it. Raises DataError as
    `cell` and count_cell do.
    """
    cell(row, rule, "count")  # a column that is named must be there
    column = rule.columns.get("count", "count")
    return count_cell(row, column) if column else 1


def read_session(row: Row, rule: LabelRule) -> str | None:
    """The session that a row's request came in; None without a column for it."""
    return cell(row, rule, "session") if "session" in rule.columns else session_cell(row)


def label_column(row: Row, rule: LabelRule) -> str:
    """The column that a label_map translates: the one that is named, or the first of label, kind,
    category.
    """
    named = rule.columns.get("label")
    return named or next(
        (rule.columns.get(w, w) for w in _LABEL_COLUMNS if rule.columns.get(w, w) in row), "label"
    )


def propose_meaning(value: str) -> str:
    """Propose the meaning of a label column's value, for a person to confirm; "skip" where nobody
    could tell.
    """
    plain = " ".join(value.casefold().replace("_", " ").replace("-", " ").split())
    names = {c.token.strip("[]").casefold(): c.name for c in coconot().categories}
    if plain in KIND_WORDS:
        return (
            REFUSE
            if KIND_WORDS[plain] == "refusal"
            else "contrast"
            if plain == "contrast"
            else "respond"
        )
    if plain in names.values() or plain in names:
        return names.get(plain, plain)
    return REFUSE if plain in _TO_REFUSE else "respond" if plain in _TO_ANSWER else SKIP


def describe_unknown_label(column: str, values: Iterable[object]) -> tuple[str, str]:
    """Describe the values of an unknown label column: (what was found, what to paste). values: of
    all rows, None among them.
    """
    count = Counter(as_text(v) or "" for v in values)
    seen = [f"{v!r} ({n})" for v, n in count.most_common(_LISTED)]
    more = f" and {len(count) - _LISTED} more" if len(count) > _LISTED else ""
    pairs = ", ".join(
        f'{toml_string(v)} = "{propose_meaning(v)}"' for v, _ in count.most_common(_LISTED)
    )
    named = (
        "" if column in _LABEL_COLUMNS else f"columns = {{ label = {toml_string(column)} }} and "
    )
    return (
        f"values of {column!r}: {', '.join(seen)}{more}",
        "say in the source what each means (respond, refuse, contrast, skip or a category): "
        f"{named}label_map = {{ {pairs} }}",
    )


def toml_string(text: str) -> str:
    """A text as a TOML string or key."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return (
        '"' + "".join(c if c >= " " and c != "\x7f" else f"\\u{ord(c):04x}" for c in escaped) + '"'
    )


def _mapped(row: Row, rule: LabelRule) -> RowLabel | None:
    """Label a row by its source's label_map."""
    column = label_column(row, rule)
    if column not in row:
        raise DataError(
            f"there is no column {column!r} for label_map",
            f"its columns are {', '.join(map(repr, row))}",
        )
    value = as_text(row.get(column)) or ""
    # an exact match goes first, so that a map may tell "No" from "NO"
    folded = {k.strip().casefold(): v for k, v in rule.label_map.items()}
    means = rule.label_map.get(value, folded.get(value.casefold()))
    if means is None:
        raise UnknownLabel(column, value)
    if means == SKIP:
        return None
    own = None if column == rule.columns.get("category", "category") else _own_category(row, rule)
    category = own or rule.category
    match KIND_WORDS.get(means):
        case None:  # the name of a category
            return RowLabel(kind=rule.rows_kind or "refusal", category=means)
        case "refusal":
            return RowLabel(kind=rule.rows_kind or "refusal", category=category or REFUSE)
        case "contrast":
            return RowLabel(kind="contrast", category=category)
        case _:
            return RowLabel(
                kind=rule.rows_kind or ("contrast" if category else "benign"), category=category
            )


def _own_category(row: Row, rule: LabelRule) -> str | None:
    """The row's category, by the name that its source gives it."""
    own = cell(row, rule, "category")
    return rule.categories.get(own, own) if own is not None else None


def _own_kind(row: Row, rule: LabelRule) -> Kind | None:
    """The kind by the row's own columns, checked against each other and against the source's; None
    if none says.
    """
    said: dict[str, Kind] = {}
    kind, label = cell(row, rule, "kind"), cell(row, rule, "label")
    expected = cell(row, rule, "expected")
    if kind is not None:
        if kind not in ("refusal", "contrast", "benign"):
            raise UnknownLabel(rule.columns.get("kind", "kind"), kind)
        said["kind"] = KIND_WORDS[kind]
    elif label is not None and label.casefold() in KIND_WORDS:
        said["label"] = KIND_WORDS[label.casefold()]
    elif label is not None and rule.rows_kind is None and expected is None:
        raise UnknownLabel(rule.columns.get("label", "label"), label)
    if expected is not None:
        if expected not in ("refuse", "respond"):
            raise UnknownLabel(rule.columns.get("expected", "expected"), expected)
        said["expected"] = KIND_WORDS[expected]
    if rule.rows_kind is not None:
        said["rows_kind"] = rule.rows_kind
    # all that name a kind must agree on refusing or answering; which kind of answer may differ
    first = next(iter(said.items()), None)
    for word, other in said.items():
        if first and (other == "refusal") != (first[1] == "refusal"):
            # an expected column writes "refuse" or "respond", not a kind
            written: str = other
            if word == "expected":
                written = "refuse" if other == "refusal" else "respond"
            raise DataError(
                f"the row is of {first[0]} {first[1]!r} but {word} {written!r}",
                "refusals are expected to 'refuse', contrast and benign rows to 'respond': "
                "correct one of them",
            )
    return said.get("kind") or rule.rows_kind or (first[1] if first else None)
