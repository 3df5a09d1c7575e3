"""Scores of rewritten prompts, and the scores that a policy decides on: their paths in a run folder
and how they are read.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from demur.core.example import RewriteName, Split
from demur.core.fingerprint import Fingerprint
from demur.core.maps.correctness import CorrectnessAware
from demur.core.score import ScoreTable
from demur.store.run import RunFolder
from demur.store.scores.tables import read_scores


def rewritten_scores(folder: RunFolder, split: Split, name: RewriteName) -> Path:
    """score/<split>-<rewrite>.parquet: scores of a split's rewritten prompts, under the ids of the
    originals
    """
    return folder.stage("score") / f"{split}-{name}.parquet"


def read_rewritten(
    folder: RunFolder, split: Split, names: Sequence[RewriteName]
) -> dict[str, ScoreTable]:
    """Read the scores of each rewrite. Raises ArtifactError naming a missing or damaged file."""
    return {name: read_scores(rewritten_scores(folder, split, name))[0] for name in names}


def correctness_file(folder: RunFolder) -> Path:
    """calibrate/correctness.json: there only if that calibrator was asked for"""
    return folder.stage("calibrate") / "correctness.json"


def calibrated_scores(folder: RunFolder, split: Split) -> Path:
    """calibrate/<split>.parquet: a cascade's scores, or those of the correctness-aware calibrator,
    which reads a row's rewrites too
    """
    return folder.stage("calibrate") / f"{split}.parquet"


def decided_scores(folder: RunFolder, split: Split, policy: Fingerprint | None) -> Path:
    """The path of the scores that a policy of this run decides on.

    policy: the fingerprint that the policy names; None: it names none, and decides on the model's.
    """
    # as_scored is the model behind a cascade or a correctness-aware calibrator; where that is the
    # fingerprint itself, nothing stands between model and policy.
    own = policy is None or policy == policy.as_scored
    return folder.scores(split) if own else calibrated_scores(folder, split)


def correctness_scores(
    aware: CorrectnessAware, folder: RunFolder, split: Split, rewrites: Sequence[RewriteName]
) -> ScoreTable:
    """Compute the scores of a split after a correctness-aware calibrator."""
    table = read_scores(folder.scores(split))[0]
    rewritten = read_rewritten(folder, split, rewrites)
    # M rewrites, N prompts in the order of the split, C control tokens
    rewritten_MNC = np.stack([rewritten[name].select(table.ids).logp_NC for name in rewrites])
    # The calibrator shares the leftover mass out. It is put back, or padded prompts would look like
    # any other.
    kept_N = np.log(np.maximum(1.0 - table.leftover_N, np.float32(1e-6)))
    return ScoreTable(
        ids=table.ids, logp_NC=aware.apply(table.logp_NC, rewritten_MNC) + kept_N[:, None]
    )
