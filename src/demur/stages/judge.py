"""judge: a file of answers -> a file of verdicts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from demur.core.judging.judge import judge_rows
from demur.core.judging.outcome import Verdict
from demur.core.ports import Judge, Progress, no_progress
from demur.store.answers.answers_file import read_answers, write_verdicts


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """The answers to judge, and the file for the verdicts."""

    file: Path
    out: Path
    category: str | None = None  # what answers without one are held to


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """Counts of the verdicts."""

    judge: str
    answers: int
    without_category: int  # answers that no category's rubric is applied to
    verdicts: dict[Verdict, int]
    unscored: tuple[tuple[str, int], ...]  # reasons of unscored answers, the most frequent first


def run(config: Config, judge: Judge, progress: Progress = no_progress) -> Summary:
    """Judge a file of answers and write the verdicts. Progress counts answers. Raises DataError
    naming file and line of a row that cannot be read.

    An answer that is missing or empty, and one whose request is, are unscored with that reason.
    """
    rows = read_answers(config.file, category=config.category)
    outcomes = judge_rows(judge, [row.item for row in rows], progress)
    write_verdicts(config.out, [row.id for row in rows], outcomes)
    # Verdicts that do not occur are listed with 0.
    count = Counter(o.verdict for o in outcomes)
    reasons = Counter(o.reason for o in outcomes if o.verdict == "unscored")
    return Summary(
        judge=judge.version,
        answers=len(rows),
        without_category=sum(row.item.category is None for row in rows),
        verdicts={v: count[v] for v in ("refusal", "partial", "compliance", "unscored")},
        unscored=tuple(reasons.most_common()),
    )
