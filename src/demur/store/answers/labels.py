"""Hand labels of texts, as JSONL, and the key to texts that were drawn for labelling.

1. A labelled text is {"id": prompt, "token": ..., "label": ...}, one line each.
2. `demur judge draw` writes less, so that nobody is led: {"id": "text-7", "request", "answer",
   "label"}. Labels of several people stand under "labels", by their names.
3. The key beside that file (FILE with .key.jsonl) has the text behind each id: {"id": "text-7",
   "prompt", "token", "stratum", "of"}.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field

from demur.base.boundary import Strict, validated
from demur.base.errors import DataError
from demur.base.files import digest_file, digest_json, write_text
from demur.base.rows import read_rows
from demur.core.judging.outcome import Verdict
from demur.store.answers.answers_file import agreed_label
from demur.store.rows import RowId

ByHand = Literal["refusal", "partial", "compliance"]


class LabelRow(Strict):
    """One line: the text that follows a control token, labelled by hand."""

    id: RowId  # of the prompt
    token: str  # "respond" or a category: the control token before the text
    label: ByHand


class DrawnRow(Strict):
    """One line of the key: which text was drawn, and how."""

    id: str
    prompt: str  # id
    token: str
    stratum: str
    of: int  # texts of that stratum from which it was drawn
    # digest of request and answer: every draw has the same ids. None: of older versions
    text: str | None = None


class _DrawnLabelRow(Strict):
    """The keys of a line of drawn texts that matter here."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    id: RowId
    request: Any = None
    answer: Any = None
    label: ByHand | None = None  # None: nobody has looked yet
    labels: dict[str, ByHand | None] = Field(default_factory=dict)  # by each person who has


@dataclass(frozen=True, kw_only=True, slots=True)
class HandLabels:
    """Hand labels by prompt id and score column."""

    verdicts: dict[tuple[str, int], Verdict]
    # of texts drawn in strata: the stratum of each labelled text, and the texts of each stratum;
    # empty: all alike
    stratum: dict[tuple[str, int], int]
    sizes: tuple[int, ...]

    @property
    def checked(self) -> tuple[int, ...]:
        """Labelled texts of each stratum."""
        count = Counter(self.stratum.values())
        return tuple(count[s] for s in range(len(self.sizes)))


NO_LABELS = HandLabels(verdicts={}, stratum={}, sizes=())


def key_path(labels: Path) -> Path:
    """The path of the key to drawn texts."""
    return labels.with_suffix(".key.jsonl")


def read_key(labels: Path) -> dict[str, DrawnRow]:
    """Read the key beside a file of labels, by id of the drawn text; empty without one. Raises
    DataError.
    """
    path = key_path(labels)
    if not path.exists():
        return {}
    rows = [validated(DrawnRow, raw.value, raw.where, DataError) for raw in read_rows(path)]
    return {row.id: row for row in rows}


def stratum_sizes(drawn: Mapping[str, DrawnRow]) -> dict[str, int]:
    """Texts of each stratum of a draw, by its name."""
    return {row.stratum: row.of for row in drawn.values()}


def require_drawn(row: DrawnRow, request: Any, answer: Any, where: str) -> None:
    """Raise DataError unless these are the texts that were drawn, as far as both sides say them.

    Every draw numbers its texts alike: beside the key of another draw, labels would be counted for
    other texts.
    """
    said = isinstance(request, str) and isinstance(answer, str)
    if row.text is None or not said or row.text == _text_digest(request, answer):
        return
    raise DataError(
        f"{where}: {row.id!r} is another text than the one that was drawn under this id",
        "keep each file of labels beside the key of its own draw (FILE with .key.jsonl)",
    )


def _text_digest(request: str, answer: str) -> str:
    """The digest of a text to label; white space does not count."""
    return digest_json([" ".join(text.split()) for text in (request, answer)])


def labels_digest(path: Path) -> str:
    """Digest of the labels and of their key, if there is one."""
    key = key_path(path)
    return digest_json([digest_file(p) for p in (path, key) if p.exists() or p == path])


def write_drawn(path: Path, drawn: Sequence[tuple[DrawnRow, str, str]]) -> None:
    """Write texts to label, (key, request, answer) each, and their key beside them. Raises
    DataError if the file is there: hand labels are worth more than a new draw.
    """
    if path.exists():
        raise DataError(f"{path} is there already", "finish labelling it, or draw to another file")
    asked = [
        {"id": row.id, "request": request, "answer": answer, "label": None}
        for row, request, answer in drawn
    ]
    keys = [
        row.model_copy(update={"text": _text_digest(request, answer)})
        for row, request, answer in drawn
    ]
    # the key first: texts without their key could never be read back
    write_text(key_path(path), "".join(row.model_dump_json() + "\n" for row in keys))
    write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in asked))


def read_labels(path: Path, choices: Sequence[str]) -> HandLabels:
    """Read hand labels, of drawn texts or of others. Raises DataError naming file and line of a bad
    or repeated one.

    Drawn texts without a label are left out: the labelled ones of their stratum represent it. A
    stratum without any is a DataError.
    """
    verdicts: dict[tuple[str, int], Verdict] = {}
    stratum: dict[tuple[str, int], str] = {}
    drawn = read_key(path)
    for where, text, label in _drawn_texts(path, drawn) if drawn else _named_texts(path):
        if text.token not in choices:
            raise DataError(
                f"{where}: {text.token!r} is no control token", f"known: {', '.join(choices)}"
            )
        key = (text.prompt, list(choices).index(text.token))
        if key in verdicts:
            raise DataError(
                f"{where}: prompt {text.prompt!r} after {text.token!r} is labelled twice",
                "keep one",
            )
        verdicts[key], stratum[key] = label, text.stratum
    if not verdicts:
        raise DataError(f"{path} holds no label", "one JSON object per line: id, token, label")
    sizes = stratum_sizes(drawn)
    if bare := sorted(sizes.keys() - set(stratum.values())):
        raise DataError(
            f"{path}: no text of the stratum {bare[0]!r} is labelled",
            "label on, in the order of the file",
        )
    # strata are numbered in the order of the key; texts that were not drawn have none
    place = {name: n for n, name in enumerate(sizes)}
    return HandLabels(
        verdicts=verdicts,
        stratum={key: place[name] for key, name in stratum.items() if drawn},
        sizes=tuple(sizes.values()),
    )


def _named_texts(path: Path) -> Iterator[tuple[str, DrawnRow, Verdict]]:
    """(where, text, label) of the lines that name prompt and token themselves."""
    for raw in read_rows(path):
        row = validated(LabelRow, raw.value, raw.where, DataError)
        yield (
            raw.where,
            DrawnRow(id=row.id, prompt=row.id, token=row.token, stratum="", of=1),
            row.label,
        )


def _drawn_texts(
    path: Path, drawn: Mapping[str, DrawnRow]
) -> Iterator[tuple[str, DrawnRow, Verdict]]:
    """(where, text, label) of the lines that are labelled, by the key."""
    for raw in read_rows(path):
        row = validated(_DrawnLabelRow, raw.value, raw.where, DataError)
        if row.id not in drawn:
            raise DataError(
                f"{raw.where}: {row.id!r} is not in {key_path(path)}", "leave the ids as they were"
            )
        require_drawn(drawn[row.id], row.request, row.answer, raw.where)
        # people who have not looked at the text yet left null
        said: dict[str, Verdict] = {
            who: label for who, label in row.labels.items() if label is not None
        }
        label = agreed_label(row.label, said)
        if label is None and said:
            raise DataError(f"{raw.where}: people differ on {row.id!r}", 'decide: set "label"')
        if label is not None:
            yield raw.where, drawn[row.id], label
