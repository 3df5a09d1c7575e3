"""Guess the columns of a file's rows: their shape, prompt, reply, and the label that says "refuse".

1. Columns: if no known shape fits, a prompt is the column with a fitting name, or with the most
   different texts of several words; the reply is the one named like a reply.
2. Label: the rows' own columns; else the column most of whose values have a known meaning; else the
   name of the file.
3. A value without a known meaning is mapped to "skip" and named in a note. A file with a row that
   cannot be read is left out, with the reason.
Only `demur init` guesses; it writes the guesses down for a person to read.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from demur.base.errors import DataError
from demur.base.rows import read_rows
from demur.core.example import Example, Kind
from demur.core.rows.labels import (
    REFUSE,
    SKIP,
    LabelRule,
    RowLabel,
    label_row,
    propose_meaning,
)
from demur.core.rows.shapes import Row, as_text, read_conversation

MOST_VALUES = 30  # different values of a column that may be a label
_LONGEST_VALUE = 60  # characters of a label
_FEWEST_WORDS = 3.0  # of a prompt, on average: less is a name or a code

# Parts of column names and file names, in lower case. "harmless" contains no refusing name but
# "unsafe" contains an answering one: refusing names are tried first.
_PROMPT_NAMES = re.compile(
    "prompt|question|query|request|text|user|input|instruction|message|content|goal|behaviou?r"
)
_REPLY_NAMES = re.compile("answer|response|reply|output|completion|assistant")
_LABEL_NAMES = re.compile(
    "label|kind|class|categor|type|refus|harm|safe|toxic|should|expect|is_|flag|tag"
)
_REFUSE_NAMES = re.compile("refus|harmful|unsafe|toxic|jailbreak|malicious|attack|block|declin")
_ANSWER_NAMES = re.compile("harmless|benign|safe|ordinary|normal|answer|allow|ok")
_YES, _NO = ("1", "true", "yes", "y"), ("0", "false", "no", "n")


@dataclass(frozen=True, kw_only=True, slots=True)
class FileGuess:
    """The guess about one file: its label rule, and the rows that the rule gives."""

    name: str  # inside the folder
    rows: int
    rule: LabelRule = field(default_factory=LabelRule)
    shape: str = ""  # see demur.core.rows.shapes; empty if no row was read
    # (kind, category) -> rows
    counts: Mapping[tuple[Kind, str | None], int] = field(default_factory=dict)
    skipped: int = 0  # rows that label_map leaves out
    notes: tuple[str, ...] = ()  # for a person: each guess, and values without a known meaning
    fault: str = ""  # why the file cannot be used; empty if it can


def guess_file(folder: Path, name: str) -> FileGuess:
    """Read a file of a folder and guess its columns and labels. A fault stands in the result."""
    try:
        rows = [raw.value for raw in read_rows(folder / name)]
    except DataError as e:
        return FileGuess(name=name, rows=0, fault=f"{e.message}; {e.hint}")
    return guess_rows(rows, name) if rows else FileGuess(name=name, rows=0, fault="it holds no row")


def guess_rows(rows: Sequence[Row], name: str) -> FileGuess:
    """Guess the columns and labels of rows. name: of their file, the last resort for a label."""
    columns, notes = _columns(rows)
    rule, more = _rule(rows, columns, Path(name).stem.casefold())
    counts: Counter[tuple[Kind, str | None]] = Counter()
    shapes: Counter[str] = Counter()
    faults: list[str] = []
    skipped = 0
    # The guess is tried on every row, as a run would read it.
    for number, row in enumerate(rows, start=1):
        try:
            found = _read_row(row, rule)
        except DataError as e:
            faults.append(f"row {number}: {e.message}; {e.hint}")
            continue
        if found is None:
            skipped += 1
            continue
        label, shape = found
        counts[label.kind, label.category] += 1
        shapes[shape] += 1
    fault = "" if counts else "no row is left: every value is mapped to skip"
    if faults:
        fault = f"{len(faults)} of {len(rows)} rows cannot be used, the first: {faults[0]}"
    return FileGuess(
        name=name,
        rows=len(rows),
        rule=rule,
        shape=", ".join(shapes),
        counts=dict(counts),
        skipped=skipped,
        notes=(*notes, *more),
        fault=fault,
    )


def _read_row(row: Row, rule: LabelRule) -> tuple[RowLabel, str] | None:
    """The label and the shape of a row; None where the rule skips it. Raises DataError."""
    label, conversation = label_row(row, rule), read_conversation(row, rule.columns)
    if label is None:
        return None
    # An example's own checks find further faults, such as a missing user's turn.
    Example(
        id="row",
        source="file",
        messages=conversation.turns,
        kind=label.kind,
        category=label.category,
    )
    return label, conversation.shape


def _columns(rows: Sequence[Row]) -> tuple[dict[str, str], list[str]]:
    """Columns of prompt and reply, and notes; both empty where the rows have a known shape."""
    if _readable(rows[0]):
        return {}, []
    texts = {name: _texts(rows, name) for name in _names(rows)}
    long = []  # columns whose texts are several words long on average
    for name, values in texts.items():
        words = sum(len(v.split()) for v in values)
        if values and words / len(values) >= _FEWEST_WORDS:
            long.append(name)
    prompts = [n for n in long if not _REPLY_NAMES.search(n.casefold())]
    if not prompts:
        return {}, [f"no column looks like a prompt: {', '.join(texts)}"]
    # A column named like a prompt goes before one that merely has more different texts.
    prompt = max(
        prompts, key=lambda n: (bool(_PROMPT_NAMES.search(n.casefold())), len(set(texts[n])))
    )
    found, notes = {"prompt": prompt}, [f"the prompt is taken from column {prompt!r}"]
    reply = next((n for n in texts if n != prompt and _REPLY_NAMES.search(n.casefold())), None)
    if reply is not None:
        found["reply"] = reply
        notes.append(f"the reply is taken from column {reply!r}")
    return found, notes


def _rule(rows: Sequence[Row], columns: dict[str, str], stem: str) -> tuple[LabelRule, list[str]]:
    """The label rule of rows, with notes: their own columns, a mapped column, or the file's name.

    columns: of prompt and reply. stem: of the file's name, in lower case.
    """
    kind: Kind | None = "contrast" if "contrast" in stem else None
    plain = LabelRule(columns=columns)
    with suppress(DataError):
        if all(label_row(row, plain) is not None for row in rows):
            return plain, []
    best = _label_column(rows, columns)
    if best is not None:
        column, meanings = best
        named = columns if column in ("label", "kind", "category") else {**columns, "label": column}
        unknown = [v for v, means in meanings.items() if means == SKIP]
        notes = [f"column {column!r} is taken for the label"]
        if unknown:
            notes.append(
                f"not understood, mapped to skip: {', '.join(map(repr, unknown))} of column "
                f"{column!r}"
            )
        answers = any(m in ("respond", "contrast") for m in meanings.values())
        return LabelRule(
            rows_kind=None if answers else kind, label_map=meanings, columns=named
        ), notes
    if kind is None and _REFUSE_NAMES.search(stem):
        kind = "refusal"
    elif kind is None and _ANSWER_NAMES.search(stem):
        kind = "benign"
    if kind is None:
        return plain, ["nothing tells what is to be refused: no column, and not the file's name"]
    category = (
        REFUSE if kind == "refusal" and not all(as_text(r.get("category")) for r in rows) else None
    )
    # Columns "kind" and "expected" were not understood above, so they are switched off.
    foreign = [name for name in ("kind", "expected") if any(name in row for row in rows)]
    rule = LabelRule(
        rows_kind=kind, category=category, columns={**columns, **dict.fromkeys(foreign, "")}
    )
    return rule, [f"all rows are taken for {kind} rows, by the name of the file"]


def _label_column(
    rows: Sequence[Row], columns: Mapping[str, str]
) -> tuple[str, dict[str, str]] | None:
    """The column with a known meaning for most rows, and its values' meanings; None without one."""
    best: tuple[tuple[int, bool], str, dict[str, str]] | None = None
    for name in _names(rows):
        values = Counter(as_text(row.get(name)) or "" for row in rows)
        plain = all(isinstance(row.get(name), str | int | float | bool | None) for row in rows)
        if not plain or name in columns.values() or len(values) > MOST_VALUES:
            continue
        if any(len(v) > _LONGEST_VALUE for v in values):
            continue
        meanings = _meanings(name.casefold(), list(values))
        # rows whose label has a known meaning; of equal columns the one named like a label wins
        score = sum(n for v, n in values.items() if meanings[v] != SKIP)
        rank = (score, bool(_LABEL_NAMES.search(name.casefold())))
        if score and (best is None or rank > best[0]):
            best = (rank, name, meanings)
    return None if best is None else (best[1], best[2])


def _meanings(column: str, values: Sequence[str]) -> dict[str, str]:
    """value -> its meaning as a label. Yes and no mean what the column's name says."""
    if {v.casefold() for v in values if v} <= {*_YES, *_NO}:
        yes = SKIP
        if _REFUSE_NAMES.search(column):
            yes = REFUSE
        elif _ANSWER_NAMES.search(column):
            yes = "respond"
        no = {REFUSE: "respond", "respond": REFUSE}.get(yes, SKIP)
        return {v: SKIP if not v else yes if v.casefold() in _YES else no for v in values}
    found = {v: propose_meaning(v) if v else SKIP for v in values}
    if "respond" in found.values() and REFUSE not in found.values():
        # One value says "respond" and none "refuse": the other values are taken for categories of
        # what is refused.
        return {v: category_name(v) if v and means == SKIP else means for v, means in found.items()}
    return found


def category_name(value: str) -> str:
    """A value as the name of a category: letters and digits in lower case, the rest dashes."""
    return re.sub(r"[^\w]+", "-", value.casefold()).strip("-_") or value


def _readable(row: Row) -> bool:
    """Whether a row has a prompt in a known shape, even one with another fault."""
    try:
        read_conversation(row)
    except DataError as e:
        return not e.message.startswith("there is no prompt")
    return True


def _names(rows: Sequence[Row]) -> list[str]:
    """The names of all columns, in the order in which they first appear."""
    return list(dict.fromkeys(name for row in rows for name in row))


def _texts(rows: Sequence[Row], name: str) -> list[str]:
    """The texts of a column; empty if it holds any other value than texts and nulls."""
    values = [row.get(name) for row in rows]
    return (
        [v for v in values if isinstance(v, str)]
        if all(isinstance(v, str | None) for v in values)
        else []
    )
