"""bench-calibration: scored runs -> study.json, study.md and study.html, a comparison of
calibrators and of measurements.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from demur.base.errors import DataError
from demur.base.files import write_text
from demur.core.ports import Progress, no_progress
from demur.core.settings import NONE
from demur.pages.page import render_html, render_markdown
from demur.stages.bench_calibration.content import page_of
from demur.stages.bench_calibration.measurements import (
    ScoredModel,
    ScoreFiles,
    measure_all,
    read_model_rows,
)
from demur.stages.bench_calibration.summary import By, summarise
from demur.stats.calibrators.choose import AUTO
from demur.stats.calibrators.families import check_family
from demur.store.results.study_file import StudyFile, write_study

__all__ = ["Config", "ScoreFiles", "ScoredModel", "run"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """The calibrators to compare. Raises ConfigError on an unknown one."""

    calibrators: tuple[str, ...] = AUTO  # families; "none" is always among them, and first
    # how test rows are grouped, to see whether calibration carries over from group to group
    by: By = "category"

    def __post_init__(self) -> None:
        for family in self.calibrators:
            check_family(family)


def run(
    config: Config, models: Sequence[ScoredModel], out: Path, progress: Progress = no_progress
) -> StudyFile:
    """Fit every calibrator on each model's calibrate split and measure it on the test split; write
    <out>/study.*.

    Progress counts pairs of model and calibrator. A calibrator that cannot be fitted on a model is
    recorded with the reason. Raises DataError without a model or with fewer than 150 test rows,
    ArtifactError on a run that is not scored.
    """
    if not models:
        raise DataError("there is no scored run to study", "score some: demur score RUN")
    # All models are read before any calibrator is fitted: a bad file must not cost an hour.
    cases = [read_model_rows(model) for model in models]
    # "none" first: the study compares every calibrator with the scores as they are.
    families = tuple(dict.fromkeys((NONE, *config.calibrators)))
    study = summarise(cases, measure_all(cases, families, progress), config.by)
    page = page_of(study)
    write_text(out / "study.html", render_html(page))
    write_text(out / "study.md", render_markdown(page))
    write_study(out / "study.json", study)
    return study
