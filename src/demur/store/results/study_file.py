"""study.json: many models under many calibrators, how far the measurements agree, and which
calibrator is best.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from demur.base.boundary import Strict, read_json, validated
from demur.base.files import write_json


class ModelRow(Strict):
    """One run of the study."""

    name: str  # its folder, relative to the folder of the study
    calibrate_rows: int  # calibrators were fitted on these
    test_rows: int  # everything was measured on these
    accuracy: float  # of the most probable control token, before calibration
    # of "ought to be refused", before calibration; null where the rows are all of one kind
    auroc: float | None
    # number of its kind of data: runs that share a source or a prompt have the same. 0: written
    # before kinds were told apart
    kind: int = 0


class MeasuredRow(Strict):
    """One calibrator on one model."""

    model: str
    calibrator: str
    # by measurement; null where undefined; empty if it could not be fitted
    errors: dict[str, float | None]
    failure: str  # why it could not be fitted


class CorrelationRow(Strict):
    """Kendall's tau of every two measurements, 15 bins where there are bins; null where
    undefined.
    """

    over: str  # the cases
    columns: tuple[str, ...]
    tau: tuple[tuple[float | None, ...], ...]


class StandingRow(Strict):
    """One calibrator among the others."""

    place: int  # 1: none is shown to be better
    calibrator: str
    mean_rank: float  # over kinds of data; in files with kinds = 0, over models
    best_in: int
    behind: tuple[str, ...] = ()  # calibrators that are shown to be better


class CalibratorRanking(Strict):
    """Calibrators by one measurement, best first."""

    measurement: str
    cases: int  # models in which every one of them was measured
    kinds: int = 0  # of data; 0: written before kinds were told apart, places count models
    needed: int = 0  # kinds that tell two calibrators apart if all of them agree
    p_value: float | None = None  # only in such files: Friedman test over models
    critical_difference: float | None = None  # only in such files: of mean ranks (Nemenyi)
    standings: tuple[StandingRow, ...]  # empty with one kind of data: it ranks nothing


class AnswerRow(Strict):
    """One of the six questions."""

    question: str
    verdict: Literal["yes", "partly", "no", "undefined"]
    figure: float | None
    meaning: str  # of the figure
    why: str  # it is undefined
    details: dict[str, float | None]


class StudyFile(Strict):
    """study.json."""

    format: Literal["demur.study/1"] = "demur.study/1"
    models: tuple[ModelRow, ...]
    calibrators: tuple[str, ...]  # "none" first; those that fitted at least one model
    columns: tuple[str, ...]  # measurements that the smallest test split can bear
    by: str  # what the test rows were parted by, for the fifth question
    parts: tuple[str, ...]
    measured: tuple[MeasuredRow, ...]
    correlations: tuple[CorrelationRow, ...]  # before calibration, then after
    rankings: tuple[CalibratorRanking, ...]
    answers: tuple[AnswerRow, ...]


def write_study(path: Path, study: StudyFile) -> None:
    """Write study.json atomically."""
    write_json(path, study.model_dump(mode="json"))


def read_study(path: Path) -> StudyFile:
    """Read study.json. Raises ArtifactError naming the file and what is wrong with it."""
    return validated(StudyFile, read_json(path), str(path))
