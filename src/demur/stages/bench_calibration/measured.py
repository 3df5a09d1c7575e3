"""Every calibrator on every model: fitted on its calibrate split, measured on its test split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from demur.core.calibrator import closed
from demur.core.errors import DataError
from demur.core.example import Example
from demur.core.ports import Progress
from demur.core.taxonomy import Taxonomy
from demur.stats.calibration.metrics import Column, measure
from demur.stats.calibration.views import Forecast, forecast
from demur.stats.calibrators.families import fit_calibrator
from demur.stats.labelled import LabelledScores, label_scores
from demur.stats.measure import Figure
from demur.store.rows import read_examples
from demur.store.run import RunFolder
from demur.store.tables import read_scores


@dataclass(frozen=True, kw_only=True, slots=True)
class Scored:
    """A run up to score, as a model of the study."""

    name: str
    folder: RunFolder
    taxonomy: Taxonomy


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Case:
    """The same, read."""

    name: str
    taxonomy: Taxonomy
    fit: LabelledScores
    groups: tuple[str | None, ...]  # of the rows to fit on
    test: LabelledScores
    examples: tuple[Example, ...]  # of the test rows
    raw: Forecast  # of the test rows, before calibration, leftover mass shared out


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """One calibrator on one model."""

    model: str
    calibrator: str
    figures: dict[Column, Figure]  # empty if it could not be fitted
    failure: str = ""


def read_case(model: Scored) -> Case:
    """Read a run's calibrate and test rows with their scores. Raises ArtifactError if it was not scored."""
    for stage in ("data", "score"):
        model.folder.require(stage)
    fit, test = (read_examples(model.folder.split(split)) for split in ("calibrate", "test"))
    fit_table, test_table = (read_scores(model.folder.scores(split))[0] for split in ("calibrate", "test"))
    labelled = label_scores(test, model.taxonomy, test_table)
    return Case(
        name=model.name,
        taxonomy=model.taxonomy,
        fit=label_scores(fit, model.taxonomy, fit_table),
        groups=tuple(e.group for e in fit),
        test=labelled,
        examples=tuple(test),
        raw=forecast(closed(labelled.table.logp_NC), labelled.label_N),
    )


def measure_all(cases: Sequence[Case], families: Sequence[str], progress: Progress) -> list[Measured]:
    """Model by model, every family. A family that cannot be fitted has no figures and says why."""
    found: list[Measured] = []
    for case in cases:
        for family in families:
            found.append(_measured(case, family))
            progress(len(found), len(cases) * len(families))
    return found


def _measured(case: Case, family: str) -> Measured:
    try:
        fitted = fit_calibrator(family, case.fit, case.taxonomy, case.groups)
    except DataError as e:
        return Measured(model=case.name, calibrator=family, figures={}, failure=e.message)
    logq_NC = closed(fitted.calibrator.apply(case.test.table.logp_NC))
    return Measured(model=case.name, calibrator=family, figures=measure(forecast(logq_NC, case.test.label_N)))
