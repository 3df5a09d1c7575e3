"""The files of <run>/blackbox: answers with a judge's verdicts, rows for the run, and counts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from demur.base.boundary import Strict, read_json, validated
from demur.base.files import write_json, write_text
from demur.core.example import Example
from demur.core.judging.outcome import Outcome, Verdict
from demur.core.rates import ByUnits, Rate
from demur.store.answers.answers_file import read_answers
from demur.store.prompts_file import PromptRow
from demur.store.run import RunFolder


@dataclass(frozen=True, slots=True)
class BlackboxFolder:
    """The paths of a run's black-box files."""

    run: RunFolder

    @property
    def root(self) -> Path:
        """<run>/blackbox"""
        return self.run.root / "blackbox"

    @property
    def replies(self) -> Path:
        """Every reply as it came, so that a killed run goes on: demur.store.answers.reply_file."""
        return self.root / "replies.sqlite"

    @property
    def answers(self) -> Path:
        """Answers with their verdicts: a file for `demur judge check`."""
        return self.root / "answers.jsonl"

    @property
    def unanswered(self) -> Path:
        """Prompts without an answer, with the reason."""
        return self.root / "unanswered.jsonl"

    @property
    def rows(self) -> Path:
        """The run's rows, of scored answers only."""
        return self.root / "rows.jsonl"

    @property
    def judge(self) -> Path:
        """The response classifier that was trained on hand-labelled answers."""
        return self.root / "judge.npz"

    @property
    def summary(self) -> Path:
        """The counts: BlackboxFile."""
        return self.root / "summary.json"

    @property
    def page(self) -> Path:
        """The page; its text stands beside it as blackbox.md."""
        return self.root / "index.html"


class HandRow(Strict):
    """The response classifier on hand-labelled answers, each held out once."""

    answers: int  # with a label
    declining: int
    accuracy: Rate  # declines or not, of those it scored
    # answers to one prompt are a unit; None: one answer each, or an older file
    by_units: ByUnits | None = None
    unscored: int


class BlackboxFile(Strict):
    """summary.json"""

    format: Literal["demur.blackbox/1"] = "demur.blackbox/1"
    model: str  # the name under which the endpoint answers
    asked_as: str  # model asked for, and how
    asked_model: str | None = None  # the name that was asked for; None in older files
    prompts: int  # different ones
    duplicates: int
    without_prompt: int
    answered: int  # empty answers among them
    empty: int
    not_asked: int  # the budget was spent
    failed: dict[str, int]  # reason -> prompts
    # reason -> answers that no judge was asked about
    declined: dict[str, int] = Field(default_factory=dict)
    judge: str
    verdicts: dict[Verdict, int]
    unscored: dict[str, int]  # reason -> answers
    hand: HandRow | None = None
    # requests of prompts that were sent and have no outcome; None in older files: one a prompt
    lost_requests: int | None = None

    @property
    def asked_for(self) -> str:
        """The model name in the requests, which an endpoint may resolve to another one."""
        # older files have it within asked_as only: "NAME temperature=... ..."
        return self.asked_model or self.asked_as.partition(" temperature=")[0]

    @property
    def without_outcome(self) -> int:
        """Requests whose prompt was sent, and has no answer or one that no judge could score."""
        if self.lost_requests is not None:
            return self.lost_requests
        return sum(self.failed.values()) + self.verdicts["unscored"]


def write_summary(path: Path, file: BlackboxFile) -> None:
    """Write the counts atomically."""
    write_json(path, file.model_dump(mode="json"))


def read_summary(path: Path) -> BlackboxFile:
    """Read the counts. Raises ArtifactError if the file is missing or damaged."""
    return validated(BlackboxFile, read_json(path), str(path))


def prompts_without_outcome(run: RunFolder) -> int:
    """Count the requests of a black-box run whose prompts got no answer, or one that no judge could
    score; 0 for any other run.

    Raises ArtifactError if the counts are damaged or changed, or missing beside answers.
    """
    folder = BlackboxFolder(run)
    # Promises count these prompts as errors, so edited counts are an error. Older runs have no
    # receipt to compare with.
    if run.receipt("blackbox") is not None:
        run.require("blackbox", str(folder.summary.relative_to(run.root)))
    ours = any(path.exists() for path in (folder.summary, folder.rows, folder.answers))
    return read_summary(folder.summary).without_outcome if ours else 0


def write_answers(
    path: Path, asked: Sequence[PromptRow], texts: Sequence[str], outcomes: Sequence[Outcome]
) -> None:
    """Write answers atomically. `verdict` is the judge's; `label` is a person's, kept where the
    answer is the same.

    Raises DataError, naming the line, if the file is there and cannot be read: labels in it would
    be lost.
    """
    before = read_answers(path) if path.exists() else []
    labels = {(row.id, row.item.answer): row.label for row in before if row.label is not None}
    lines = [
        {
            "id": p.id,
            "request": p.messages[-1].content,
            "answer": text,
            "verdict": o.verdict,
            "score": o.score,
            "reason": o.reason,
            **({"label": labels[p.id, text]} if (p.id, text) in labels else {}),
        }
        for p, text, o in zip(asked, texts, outcomes, strict=True)
    ]
    write_text(path, _jsonl(lines))


def write_unanswered(path: Path, reasons: Sequence[tuple[PromptRow, str]]) -> None:
    """Write the prompts without an answer atomically."""
    write_text(
        path,
        _jsonl(
            {"id": p.id, "request": p.messages[-1].content, "reason": why} for p, why in reasons
        ),
    )


def write_rows(path: Path, examples: Iterable[Example]) -> None:
    """Write rows for the run's jsonl source atomically; the data stage splits them."""
    lines = (
        {
            "id": e.id,
            "source": e.source,
            "messages": [{"role": m.role, "content": m.content} for m in e.messages],
            "kind": e.kind,
            "expected": e.expected,
            "category": e.category,
            "group": e.group,
            # rows of older versions lack both; written only where they say something, such a file
            # stays the same
            **({"session": e.session} if e.session is not None else {}),
            **({"count": e.count} if e.count != 1 else {}),
        }
        for e in examples
    )
    write_text(path, _jsonl(lines))


def _jsonl(lines: Iterable[object]) -> str:
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
