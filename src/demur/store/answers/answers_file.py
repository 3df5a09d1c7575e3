"""Files of answers to judge, and files of verdicts on them.

In: {"id", "request" or "prompt", "answer" or "response", "category", "label", "labels"}, or a
conversation of any shape of docs/data.md whose last turn is the answer; other keys are left alone.
An id, and either text, may be missing. "label" is what people decided, "labels" what each said:
{"ann": "refusal", "bo": null}. Out: {"id", "verdict", "score", "reason", "judge"}.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import AliasChoices, ConfigDict, Field

from demur.base.boundary import Strict, validated
from demur.base.errors import DataError
from demur.base.files import write_text
from demur.base.rows import read_rows
from demur.core.judging.judge import JudgeInput
from demur.core.judging.outcome import Outcome, Verdict
from demur.core.rows.shapes import LISTS, REPLIES, read_conversation
from demur.core.rows.turns import check_text
from demur.store.rows import RowId

# Keys that only rows of another shape have than a plain request and answer.
_SHAPES = (
    {key for key, _ in LISTS} | {"instruction", "chosen"} | set(REPLIES) - {"answer", "response"}
)


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerRow:
    """One line of a file of answers."""

    id: str
    item: JudgeInput  # texts that the line lacks are empty
    label: Verdict | None  # by hand; None: nobody has looked, or people differ and none has decided
    group: str  # the prompt: answers to one prompt are not independent
    stratum: str  # value of the key that was asked for, "" without
    labels: Mapping[str, Verdict] = field(default_factory=dict)  # by each person who labelled it

    @property
    def undecided(self) -> bool:
        """Whether people differ and none has decided."""
        return self.label is None and len(set(self.labels.values())) > 1


class _Line(Strict):
    """The keys of a line that matter here."""

    model_config = ConfigDict(extra="allow", frozen=True)  # people's files say more than we need

    id: RowId | None = None
    request: Any = Field(default=None, validation_alias=AliasChoices("request", "prompt"))
    answer: Any = Field(default=None, validation_alias=AliasChoices("answer", "response"))
    category: str | None = None
    label: Verdict | None = None
    labels: dict[str, Verdict | None] = Field(default_factory=dict)


class VerdictRow(Strict):
    """One line of a file of verdicts: an Outcome with the answer's id, side by side."""

    id: str
    verdict: Verdict
    score: float | None = None
    reason: str
    judge: str


def read_answers(path: Path, by: str | None = None, category: str | None = None) -> list[AnswerRow]:
    """Read all answers of a file. Raises DataError naming file and line.

    by: a key of the lines whose value is the stratum. category: for answers without one.
    """
    rows: list[AnswerRow] = []
    seen: set[str] = set()
    for raw in read_rows(path):
        where, value = raw.where, raw.value
        line = validated(_Line, value, where, DataError)
        name = line.id if line.id is not None else str(raw.number)
        if name in seen:
            raise DataError(
                f"{where}: id {name!r} occurs twice", "give each answer an id of its own"
            )
        seen.add(name)
        if by is not None and by not in value:
            raise DataError(
                f"{where}: no key {by!r} to sort answers by", f"keys: {', '.join(sorted(value))}"
            )
        request, answer = _texts(line, value, where)
        item = JudgeInput(request=request, answer=answer, category=line.category or category)
        stratum = str(value[by]) if by is not None else ""
        # answers to one request are not independent; an answer without a request stands alone
        group = item.request or name
        labels = {who: said for who, said in line.labels.items() if said not in (None, "unscored")}
        rows.append(
            AnswerRow(
                id=name,
                item=item,
                label=agreed_label(line.label, labels),
                group=group,
                stratum=stratum,
                labels=labels,
            )
        )
    if not rows:
        raise DataError(f"{path} holds no answer", "one JSON object per line: id, request, answer")
    return rows


def _texts(line: _Line, value: Mapping[str, Any], where: str) -> tuple[str, str]:
    """(request, answer) of a row, empty where it has none. Raises DataError on other types."""
    given = {"request": line.request, "answer": line.answer}
    odd = next(
        (k for k, t in given.items() if t is not None and not isinstance(t, str | list)), None
    )
    if odd:
        raise DataError(f"{where}: {odd}: {given[odd]!r:.60} is no text", "correct the value")
    # The plain shape: texts under the keys of this format, and no key of another shape. Anything
    # else is a conversation, whose last turn is the answer.
    if (
        not any(isinstance(t, list) for t in given.values())
        and line.model_fields_set & {"request", "answer"}
        and not _SHAPES & value.keys()
    ):
        try:
            return check_text(line.request or "", "request"), check_text(
                line.answer or "", "answer"
            )
        except DataError as e:
            raise DataError(f"{where}: {e.message}", e.hint) from None
    try:
        turns = read_conversation(value).turns
    except DataError as e:
        raise DataError(
            f"{where}: {e.message}", f'a row is {{"id", "request", "answer"}}; {e.hint}'
        ) from None
    answer = turns[-1].content if turns and turns[-1].role == "assistant" else ""
    return next((m.content for m in reversed(turns) if m.role == "user"), ""), answer


def agreed_label(label: Verdict | None, labels: Mapping[str, Verdict]) -> Verdict | None:
    """The label of an answer: `label`, or without one the label that all people agree on."""
    said = {label} if label is not None else set(labels.values())
    return None if "unscored" in said or len(said) != 1 else said.pop()


def write_verdicts(path: Path, ids: Sequence[str], outcomes: Sequence[Outcome]) -> None:
    """Write verdicts atomically, one line an answer, in order."""
    lines = [
        {"id": i, "verdict": o.verdict, "score": o.score, "reason": o.reason, "judge": o.judge}
        for i, o in zip(ids, outcomes, strict=True)
    ]
    write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def read_verdicts(path: Path, ids: Sequence[str]) -> list[Outcome]:
    """Read the verdicts of these answers, in this order. Raises DataError if one is missing or
    repeated.
    """
    found: dict[str, Outcome] = {}
    for raw in read_rows(path):
        row = validated(VerdictRow, raw.value, raw.where, DataError)
        if row.id in found:
            raise DataError(f"{raw.where}: answer {row.id!r} is judged twice", "keep one verdict")
        found[row.id] = Outcome(
            verdict=row.verdict, reason=row.reason, judge=row.judge, score=row.score
        )
    missing = [i for i in ids if i not in found]
    if missing:
        raise DataError(
            f"{path} has no verdict on {len(missing)} answers, first {missing[0]!r}",
            "judge them: demur judge read",
        )
    return [found[i] for i in ids]
