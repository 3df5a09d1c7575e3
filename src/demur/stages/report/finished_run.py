"""The results of a finished run, read once for its report. Shapes: N test rows that were
evaluated.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from demur.base.arrays import Doubles
from demur.core.example import SPLITS, Example, Split
from demur.core.midway.followed import ScoredAnswer
from demur.core.policy import Policy
from demur.stats.contradictions import Contradiction, contradicted_promises
from demur.stats.labelled import LabelledScores, label_scores
from demur.stats.measure import refusal_log_odds
from demur.stats.sample import evenly_spaced
from demur.store.models.front_file import FrontMetrics, front_of, read_front_metrics
from demur.store.models.model_file import FILE_NAME, ModelFile, read_model_file
from demur.store.models.seen_file import require_unseen_splits
from demur.store.policies.policy_file import read_policy
from demur.store.results.everyday_file import Everyday, read_everyday
from demur.store.results.metrics_file import Evaluation, PolicyMetrics, read_metrics
from demur.store.rows import read_examples, read_policy_rows
from demur.store.run import STAGES, Receipt, RunFolder
from demur.store.scores.answer_peaks import answers_for
from demur.store.scores.rewritten import decided_scores
from demur.store.scores.tables import Branch, read_branches, read_scores


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FinishedRun:
    """The results of a finished run."""

    evaluation: Evaluation
    policies: tuple[Policy, ...]  # in the order of evaluation.policies
    examples: tuple[Example, ...]  # N test rows that were evaluated
    rows: LabelledScores  # the same rows
    branches: dict[tuple[str, int], Branch]  # by prompt id and score column
    model: ModelFile | None  # None for a checkpoint that demur did not train
    counts: dict[tuple[Split, str, str], int]  # rows by split, kind and category ("" for none)
    receipts: tuple[Receipt, ...]  # of the stages that finished
    everyday: Everyday | None = None  # the everyday prompts, if they were scored
    # of a cascade: number of test rows that its front decided, its metrics
    by_front: tuple[int, FrontMetrics] | None = None
    # to the rows, in their order, where the calibrated policy's monitor can be counted on them
    answers: tuple[ScoredAnswer, ...] = ()

    @property
    def calibrated(self) -> Policy:
        """The calibrated policy."""
        return self.policies[1]

    @property
    def measured(self) -> PolicyMetrics:
        """The calibrated policy's metrics on the test rows."""
        return self.evaluation.policies[1]

    @property
    def against(self) -> tuple[Contradiction, ...]:
        """Certified promises of the calibrated policy that the test rows contradict."""
        made = next((r.settings for r in self.receipts if r.stage == "calibrate"), {})
        return contradicted_promises(self.calibrated, self.rows, made)

    @property
    def score_N(self) -> Doubles:
        """Log-odds of refusing at all, per test row."""
        return refusal_log_odds(self.calibrated, self.rows)

    @property
    def should_N(self) -> npt.NDArray[np.bool_]:
        """Whether each test row ought to be refused."""
        should_N: npt.NDArray[np.bool_] = self.rows.label_N != 0
        return should_N


def require_finished(folder: RunFolder) -> None:
    """Raise ArtifactError unless all stages before have finished and are up to date, DataError if
    the model was trained on rows that it was measured on.
    """
    for stage in ("data", "score", "calibrate", "evaluate"):
        folder.require(stage)
    promised = any(p.status == "certified" for p in read_policy(folder.policy).promises)
    # Without a train stage there is no record of seen rows: tolerated unless a promise is
    # certified.
    if folder.receipt("train") is not None or promised:
        require_unseen_splits(folder, ("calibrate", "test"))


def read_finished_run(folder: RunFolder) -> FinishedRun:
    """Read a run that passes require_finished. Raises ArtifactError on a damaged file."""
    evaluation = read_metrics(folder.metrics)
    policies = tuple(read_policy(folder.root / p.file) for p in evaluation.policies)
    splits = {s: read_examples(folder.split(s)) for s in SPLITS}
    examples = tuple(evenly_spaced(read_policy_rows(folder, "test"), evaluation.limit))
    table, model = read_scores(decided_scores(folder, "test", policies[1].fingerprint))
    # In a cascade, whether the front decides each test row: its decisions are made again here.
    front = None
    if model.front is not None:
        made, _ = front_of(folder, model.as_scored, model.front)
        front = [made.given(e.prompt) is not None for e in examples]
    rows = label_scores(examples, policies[1].taxonomy, table)
    followed = answers_for(folder, "test", policies[1].monitor)
    answers: tuple[ScoredAnswer, ...] = ()
    if followed is not None:
        rows = replace(rows, answers=followed.peaks.select(rows.table.ids))
        answers = followed.scored(rows.table.ids)
    return FinishedRun(
        evaluation=evaluation,
        policies=policies,
        examples=examples,
        rows=rows,
        answers=answers,
        branches={(b.id, b.column): b for b in read_branches(folder.branches, model.tokens)},
        model=read_model_file(folder.model) if (folder.model / FILE_NAME).exists() else None,
        counts=Counter((s, e.kind, e.category or "") for s in SPLITS for e in splits[s]),
        receipts=tuple(r for s in STAGES if (r := folder.receipt(s))),
        everyday=read_everyday(folder),
        by_front=None if front is None else (sum(front), read_front_metrics(folder)),
    )
