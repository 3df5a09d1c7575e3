"""Fit every calibrator on every model's calibrate split, and measure it on the test split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from demur.base.errors import DataError
from demur.core.calibrator import closed
from demur.core.example import Example, Split, prompt_key, shared_prompts
from demur.core.ports import Progress
from demur.core.taxonomy import Taxonomy
from demur.stats.calibration.metrics import Column, measure
from demur.stats.calibration.views import Forecast, forecast
from demur.stats.calibrators.families import fit_calibrator
from demur.stats.labelled import LabelledScores, label_scores
from demur.stats.measure import Statistic
from demur.store.models.seen_file import require_unseen_splits
from demur.store.rows import read_examples
from demur.store.run import RunFolder
from demur.store.scores.tables import read_scores

MOST_SHARED = 0.1  # of the test rows: more are a wrong pair of files, not frequent prompts


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreFiles:
    """Scored rows without a run: <name>-calibrate and <name>-test in one folder, .jsonl and
    .parquet each.
    """

    root: Path
    name: str

    def split(self, split: Split) -> Path:
        """<name>-<split>.jsonl: rows as in data/ of a run"""
        return self.root / f"{self.name}-{split}.jsonl"

    def scores(self, split: Split) -> Path:
        """<name>-<split>.parquet: their scores"""
        return self.root / f"{self.name}-{split}.parquet"


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredModel:
    """A model of the study: a run up to score, or files of scores."""

    name: str
    folder: RunFolder | ScoreFiles
    taxonomy: Taxonomy


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ModelRows:
    """The calibrate and test rows of a model, with scores and labels."""

    name: str
    taxonomy: Taxonomy
    fit: LabelledScores
    groups: tuple[str | None, ...]  # of the rows to fit on
    test: LabelledScores
    examples: tuple[Example, ...]  # of the test rows
    # ("source", name) and ("prompt", key) of all these rows: what makes two data sets one kind
    data: frozenset[tuple[str, str]]
    # probabilities of the test rows before calibration, scaled so that control tokens sum to 1
    raw: Forecast


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibratorResult:
    """The measurements of one calibrator on one model."""

    model: str
    calibrator: str
    figures: dict[Column, Statistic]  # empty if it could not be fitted
    failure: str = ""


def read_model_rows(model: ScoredModel) -> ModelRows:
    """Read a model's calibrate and test rows with their scores.

    Raises ArtifactError if a run was not scored, DataError if files of two models, or with common
    prompts, are paired, or if a run's model was trained on such rows. Files do not name the rows
    that their model was trained on: that check is the caller's.
    """
    # Files of scores without a run have no receipts and no record of seen rows to check.
    if isinstance(model.folder, RunFolder):
        for stage in ("data", "score"):
            model.folder.require(stage)
        require_unseen_splits(model.folder, ("calibrate", "test"))
    fit, test = (read_examples(model.folder.split(split)) for split in ("calibrate", "test"))
    (fit_table, fit_model), (test_table, test_model) = (
        read_scores(model.folder.scores(split)) for split in ("calibrate", "test")
    )
    # A calibrator measured on rows that it was fitted on, or on another model, would mislead.
    # Requests of a prompt that came very often are in both splits: such test rows are left out.
    shared = set().union(*shared_prompts(fit, test))
    if fit_model != test_model or len(shared) > MOST_SHARED * len(test):
        raise DataError(
            f"{model.name}: the calibrate and test files share prompts, or another model scored "
            "them",
            "pair files of one model and of rows that were split by whole groups, as demur data "
            "does",
        )
    test = [e for e in test if e.id not in shared]
    labelled = label_scores(test, model.taxonomy, test_table)
    return ModelRows(
        name=model.name,
        taxonomy=model.taxonomy,
        fit=label_scores(fit, model.taxonomy, fit_table),
        groups=tuple(e.group for e in fit),
        test=labelled,
        examples=tuple(test),
        data=frozenset(
            key for e in (*fit, *test) for key in (("source", e.source), ("prompt", prompt_key(e)))
        ),
        raw=forecast(closed(labelled.table.logp_NC), labelled.label_N),
    )


def measure_all(
    cases: Sequence[ModelRows], families: Sequence[str], progress: Progress
) -> list[CalibratorResult]:
    """Fit and measure every family on each model, model by model. A family that cannot be fitted
    has no figures, but a reason.
    """
    found: list[CalibratorResult] = []
    for case in cases:
        for family in families:
            found.append(_measured(case, family))
            progress(len(found), len(cases) * len(families))
    return found


def _measured(case: ModelRows, family: str) -> CalibratorResult:
    try:
        fitted = fit_calibrator(family, case.fit, case.taxonomy, case.groups)
    except DataError as e:
        return CalibratorResult(model=case.name, calibrator=family, figures={}, failure=e.message)
    # Measured on the test rows, which no calibrator was fitted on.
    logq_NC = closed(fitted.calibrator.apply(case.test.table.logp_NC))
    return CalibratorResult(
        model=case.name, calibrator=family, figures=measure(forecast(logq_NC, case.test.label_N))
    )
