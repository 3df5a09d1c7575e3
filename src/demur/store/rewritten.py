"""Scores of rewritten prompts, and the scores that a policy decides on: where they lie in a run folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from demur.core.example import Split
from demur.core.policy import Fingerprint
from demur.core.rewrites import RewriteName
from demur.core.score import ScoreTable
from demur.store.run import RunFolder
from demur.store.tables import read_scores


def rewritten_scores(folder: RunFolder, split: Split, name: RewriteName) -> Path:
    """score/<split>-<rewrite>.parquet: the prompts of a split said otherwise, under their own ids"""
    return folder.stage("score") / f"{split}-{name}.parquet"


def read_rewritten(folder: RunFolder, split: Split, names: Sequence[RewriteName]) -> dict[str, ScoreTable]:
    """The scores of each rewrite. Raises ArtifactError naming the file that is missing or damaged."""
    return {name: read_scores(rewritten_scores(folder, split, name))[0] for name in names}


def correctness_file(folder: RunFolder) -> Path:
    """calibrate/correctness.json: there only if that calibrator was asked for"""
    return folder.stage("calibrate") / "correctness.json"


def calibrated_scores(folder: RunFolder, split: Split) -> Path:
    """calibrate/<split>.parquet: scores after a calibrator that looked at more than a row's own scores"""
    return folder.stage("calibrate") / f"{split}.parquet"


def decided_scores(folder: RunFolder, split: Split, policy: Fingerprint | None) -> Path:
    """The scores that a policy of this run decides on: the model's own, unless its fingerprint names others."""
    own = policy is None or policy == policy.as_scored
    return folder.scores(split) if own else calibrated_scores(folder, split)
