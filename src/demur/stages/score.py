"""score: model and held-out prompts -> one row of scores per prompt, one prefill each, never again."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from demur.core.errors import ArtifactError
from demur.core.example import Example, Split
from demur.core.policy import Fingerprint
from demur.core.ports import Progress, Scorer, no_progress
from demur.core.score import ScoreTable
from demur.store.files import digest_file, digest_json
from demur.store.policy_file import FingerprintRow
from demur.store.rows import read_examples
from demur.store.run import RunFolder
from demur.store.tables import read_scores, write_scores


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """What to score."""

    splits: tuple[Split, ...] = ("calibrate", "test")
    part_rows: int = 1000  # prompts between two saves: a killed run loses at most so many


def run(config: Config, scorer: Scorer, folder: RunFolder, progress: Progress = no_progress) -> dict[Split, ScoreTable]:
    """Score the splits into <run>/score/<split>.parquet, or read them if this model already scored these rows."""
    folder.require("data")
    made_from = {f"data/{s}": digest_file(folder.split(s)) for s in config.splits}
    made_from["model"] = digest_json(FingerprintRow.from_core(scorer.fingerprint).model_dump(mode="json"))
    plain: dict[str, object] = {"splits": list(config.splits)}
    if not folder.is_current("score", plain, made_from):
        examples = {s: read_examples(folder.split(s)) for s in config.splits}
        total, done = sum(map(len, examples.values())), 0
        for split, rows in examples.items():
            table = _score_split(rows, split, scorer, _Parts(folder, config.part_rows, done, total, progress))
            write_scores(folder.scores(split), table, scorer.fingerprint)
            done += len(rows)
        folder.finish("score", plain, made_from, [folder.scores(s) for s in config.splits])
        shutil.rmtree(folder.stage("score") / "parts", ignore_errors=True)
    return {s: read_scores(folder.scores(s))[0] for s in config.splits}


@dataclass(frozen=True, slots=True)
class _Parts:
    """Where a killed run left off, and how to tell the caller about it."""

    folder: RunFolder
    rows: int  # per part
    done: int  # prompts of earlier splits
    total: int
    progress: Progress

    def from_row(self, start: int) -> Progress:
        """Progress within a part, told as progress of the whole stage."""
        return lambda done, _: self.progress(self.done + start + done, self.total)

    def path(self, split: Split, start: int) -> Path:
        """score/parts/<split>-<first row>.parquet"""
        return self.folder.stage("score") / "parts" / f"{split}-{start}.parquet"


def _score_split(examples: Sequence[Example], split: Split, scorer: Scorer, parts: _Parts) -> ScoreTable:
    tables = []
    for start in range(0, len(examples), parts.rows):
        some = examples[start : start + parts.rows]
        path = parts.path(split, start)
        table = _stored(path, [e.id for e in some], scorer.fingerprint)
        if table is None:
            logp_NC = scorer.logp([e.prompt for e in some], parts.from_row(start))
            table = ScoreTable(ids=tuple(e.id for e in some), logp_NC=logp_NC)
            write_scores(path, table, scorer.fingerprint)
        tables.append(table)
        parts.progress(parts.done + start + len(some), parts.total)
    ids = tuple(i for t in tables for i in t.ids)
    return ScoreTable(ids=ids, logp_NC=np.concatenate([t.logp_NC for t in tables]))


def _stored(path: Path, ids: Sequence[str], fingerprint: Fingerprint) -> ScoreTable | None:
    """The part at `path` if it is whole and was made for these prompts by this model."""
    if not path.exists():
        return None
    try:
        table, made_by = read_scores(path)
    except ArtifactError:
        return None  # damaged: score it again
    return table if made_by == fingerprint and list(table.ids) == list(ids) else None
