"""score: model and held-out prompts -> one row of scores per prompt, from one prefill each; and,
where asked for, one row per answer.

1. Each split is scored in parts of `part_rows` prompts; a part is written as soon as it is scored.
2. A killed run starts again, and reads the parts that this model scored for these prompts.
3. The parts become score/<split>.parquet. With rewrites, which correctness-aware calibration looks
   at, each rewritten split is scored likewise into score/<split>-<rewrite>.parquet.
4. For a monitor, each prompt is answered after a forced [respond], and the statistic over its
   answer goes into score/<split>-answers.parquet, in parts likewise: demur.stages.score.followed.
5. The receipt is written last, then the parts are deleted.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from demur.base.errors import ArtifactError
from demur.base.files import digest_file, digest_json
from demur.core.example import RewriteName, Split
from demur.core.fingerprint import Fingerprint
from demur.core.ports import Progress, Prompt, Scorer, no_progress, progress_of_part, watcher_of
from demur.core.rows.rewrites import rewrite_prompt
from demur.core.score import ScoreTable
from demur.core.settings import ScoreSettings
from demur.stages.score.followed import follow_splits
from demur.store.fingerprint_json import fingerprint_json
from demur.store.models.seen_file import require_unseen_splits
from demur.store.rows import read_examples
from demur.store.run import RunFolder
from demur.store.scores.rewritten import rewritten_scores
from demur.store.scores.tables import read_scores, write_scores

Config = ScoreSettings


def run(
    config: Config, scorer: Scorer, folder: RunFolder, progress: Progress = no_progress
) -> dict[Split, ScoreTable]:
    """Score the splits into <run>/score/<split>.parquet, or read them if this model already scored
    these rows.

    Raises DataError, naming rows, if the run's model was trained on any of the calibrate and test
    rows; EngineError if answers are asked for and the engine follows none.
    """
    folder.require("data")
    # Without a train stage, only the caller can know which rows the model was trained on.
    if folder.receipt("train") is not None:
        require_unseen_splits(folder, config.splits)
    made_from = {f"data/{s}": digest_file(folder.split(s)) for s in config.splits}
    made_from["model"] = digest_json(fingerprint_json(scorer.fingerprint))
    plain: dict[str, object] = {"splits": list(config.splits)}
    # No key without rewrites: runs scored before there were rewrites stay finished.
    if config.rewrites:
        plain["rewrites"] = list(config.rewrites)
    if config.answers is not None:
        plain["answers"] = asdict(config.answers)
    if not folder.is_current("score", plain, made_from):
        examples = {s: read_examples(folder.split(s)) for s in config.splits}
        wanted = [(s, name) for s in config.splits for name in (None, *config.rewrites)]
        total = sum(map(len, examples.values())) * (1 + len(config.rewrites))
        reusable = _reusable(folder, made_from)
        done = 0
        for split, name in wanted:
            done += len(examples[split])
            # A rewrite added to a scored run is scored alone: the other files are reused.
            if _path(folder, split, name) in reusable:
                continue
            prompts = {
                e.id: rewrite_prompt(name, e.prompt) if name else e.prompt for e in examples[split]
            }
            parts = _Parts(folder, config.part_rows, done - len(prompts), total, progress)
            table = _score(prompts, f"{split}-{name}" if name else split, scorer, parts)
            write_scores(_path(folder, split, name), table, scorer.fingerprint)
        made = [_path(folder, s, name) for s, name in wanted]
        if config.answers is not None:
            made += follow_splits(config.answers, watcher_of(scorer), folder, examples, progress)
        folder.finish("score", plain, made_from, made)
        shutil.rmtree(folder.stage("score") / "parts", ignore_errors=True)
    return {s: read_scores(folder.scores(s))[0] for s in config.splits}


def _reusable(folder: RunFolder, made_from: Mapping[str, str]) -> set[Path]:
    """The intact files of an earlier scoring of the same rows by the same model."""
    receipt = folder.receipt("score")
    if receipt is None or receipt.made_from != made_from:
        return set()
    made = {folder.root / name: digest for name, digest in receipt.made.items()}
    return {path for path, digest in made.items() if path.exists() and digest_file(path) == digest}


def _path(folder: RunFolder, split: Split, name: RewriteName | None) -> Path:
    return rewritten_scores(folder, split, name) if name else folder.scores(split)


@dataclass(frozen=True, slots=True)
class _Parts:
    """The part files of one split, and its progress within the whole stage."""

    folder: RunFolder
    rows: int  # per part
    done: int  # prompts of earlier splits
    total: int
    progress: Progress

    def from_row(self, start: int) -> Progress:
        """A callback for progress within a part that reports progress of the whole stage."""
        return progress_of_part(self.progress, self.done + start, self.total)

    def path(self, what: str, start: int) -> Path:
        """score/parts/<split, or split-rewrite>-<first row>.parquet"""
        return self.folder.stage("score") / "parts" / f"{what}-{start}.parquet"


def _score(prompts: Mapping[str, Prompt], what: str, scorer: Scorer, parts: _Parts) -> ScoreTable:
    """The scores of the prompts, by id; parts that are on disk already are read.

    what: the name of the part files.
    """
    ids, tables = tuple(prompts), []
    for start in range(0, len(ids), parts.rows):
        some = ids[start : start + parts.rows]
        path = parts.path(what, start)
        table = _stored(path, some, scorer.fingerprint)
        if table is None:
            logp_NC = scorer.logp([prompts[i] for i in some], parts.from_row(start))
            table = ScoreTable(ids=some, logp_NC=logp_NC)
            write_scores(path, table, scorer.fingerprint)
        tables.append(table)
        parts.progress(parts.done + start + len(some), parts.total)
    return ScoreTable(ids=ids, logp_NC=np.concatenate([t.logp_NC for t in tables]))


def _stored(path: Path, ids: Sequence[str], fingerprint: Fingerprint) -> ScoreTable | None:
    """The part at `path`; None unless it is whole and holds this model's scores of these ids."""
    if not path.exists():
        return None
    try:
        table, made_by = read_scores(path)
    except ArtifactError:
        return None  # damaged: score it again
    return table if made_by == fingerprint and list(table.ids) == list(ids) else None
