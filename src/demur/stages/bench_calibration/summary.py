"""Summarise measurements as a study: correlations, rankings, and six questions.

Questions are answered over the models. Only the fifth, whether calibration carries over, compares
parts of the rows. Calibrators are ranked over kinds of data: models whose rows have a source or a
prompt in common are of one kind. Shapes: M models, L calibrators, T measurements, D parts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from demur.base.arrays import Bools, Ints
from demur.base.errors import DataError
from demur.core.settings import NONE, Parted
from demur.stages.bench_calibration.measurements import CalibratorResult, ModelRows
from demur.stats.calibration.binned import cells
from demur.stats.calibration.metrics import COLUMNS, Column
from demur.stats.calibration.proper import view_auroc
from demur.stats.calibration.ranking import correlations, rank
from demur.stats.calibration.study import (
    HEADLINE,
    USUAL_BINS,
    Study,
    StudyAnswer,
    answer_questions,
    carries_over,
    table_row,
)
from demur.stats.calibration.views import Forecast, forecast, refusal, top_label
from demur.stats.measure import Statistic
from demur.store.results.study_file import (
    AnswerRow,
    CalibratorRanking,
    CorrelationRow,
    MeasuredRow,
    ModelRow,
    StandingRow,
    StudyFile,
)

By = Parted

RANKED_BY = (HEADLINE, Column(family="nll"), Column(family="brier"))
# fewer cannot fill the bins of the headline error: see Column.noisy
FEWEST_TEST_ROWS = 10 * USUAL_BINS


def summarise(
    cases: Sequence[ModelRows], measured: Sequence[CalibratorResult], by: By
) -> StudyFile:
    """Summarise the whole study. Raises DataError if a test split has fewer than 150 rows."""
    study, kind_M = _study(cases, measured), _kinds(cases)
    parts = _parts(cases, by)
    # The answer about parts of the rows takes the place of the one that `answers` gives without
    # any.
    answered = {a.question: a for a in answer_questions(study)}
    apart = _carries_over(study, parts, by)
    answered[apart.question] = apart
    rows = []
    for m in measured:
        errors = {str(c): m.figures[c].number for c in study.columns} if m.figures else {}
        row = MeasuredRow(model=m.model, calibrator=m.calibrator, errors=errors, failure=m.failure)
        rows.append(row)
    return StudyFile(
        models=tuple(_model(c, kind) for c, kind in zip(cases, kind_M.tolist(), strict=True)),
        calibrators=study.calibrators,
        columns=tuple(map(str, study.columns)),
        by=by,
        parts=tuple(parts),
        measured=tuple(rows),
        correlations=_correlations(study),
        rankings=tuple(_ranking(study, kind_M, column) for column in RANKED_BY),
        answers=tuple(map(_answer, answered.values())),
    )


def _study(cases: Sequence[ModelRows], measured: Sequence[CalibratorResult]) -> Study:
    """The figures of the study with all rows as one part (D = 1); NaN where a calibrator could not
    be fitted. Measurements that would be noise are left out.

    A calibrator that could be fitted on no model is left out, too.
    """
    # The smallest test split decides: a study has the same measurements of every model.
    smallest = min(cases, key=lambda c: len(c.examples))
    if len(smallest.examples) < FEWEST_TEST_ROWS:
        raise DataError(
            f"{smallest.name} has {len(smallest.examples)} test rows, {USUAL_BINS} bins need "
            f"{FEWEST_TEST_ROWS}",
            "give more test rows, or keep this run out of the folder",
        )
    columns = tuple(c for c in COLUMNS if not c.noisy(len(smallest.examples)))
    found = {(m.model, m.calibrator): m.figures for m in measured if m.figures}
    calibrators = tuple(dict.fromkeys(m.calibrator for m in measured if m.figures))
    value_MLT = np.full((len(cases), len(calibrators), len(columns)), np.nan)
    for i, case in enumerate(cases):
        for k, calibrator in enumerate(calibrators):
            if figures := found.get((case.name, calibrator)):
                value_MLT[i, k] = table_row(figures, columns)
    auroc_M = [view_auroc(refusal(c.raw)).number for c in cases]
    return Study(
        subsets=("all",),
        models=tuple(c.name for c in cases),
        calibrators=calibrators,
        columns=columns,
        value_DMLT=value_MLT[None],
        accuracy_DM=np.array([[_accuracy(c.raw) for c in cases]]),
        auroc_DM=np.array([auroc_M], dtype=np.float64),  # NaN for None
    )


def _kinds(cases: Sequence[ModelRows]) -> Ints:
    """The number of each model's kind of data, from 1 on, shape (M,).

    Models of which two share a source or a prompt, directly or over others, are of one kind.
    """
    kind_M = np.arange(len(cases))
    first: dict[tuple[str, str], int] = {}  # the first model that has a source or a prompt
    for i, case in enumerate(cases):
        for key in case.data:
            other = first.setdefault(key, i)
            if kind_M[other] != kind_M[i]:
                kind_M[kind_M == kind_M[i]] = kind_M[other]
    return np.unique(kind_M, return_inverse=True)[1] + 1


def _parts(cases: Sequence[ModelRows], by: By) -> dict[str, list[float]]:
    """The headline error of each model before calibration, by part: D lists of M numbers.

    NaN where a model has too few rows of a part; a part is left out if no model has enough.
    """
    # Per model the part of each row.
    names_MN = [
        np.array([e.source if by == "source" else e.category or "ordinary" for e in c.examples])
        for c in cases
    ]
    errors: dict[str, list[float]] = {}
    for part in sorted(set(np.concatenate(names_MN).tolist())):
        error_M = [_error_at(c, n == part) for c, n in zip(cases, names_MN, strict=True)]
        if np.isfinite(error_M).any():
            errors[part] = error_M
    return errors


def _error_at(case: ModelRows, at_N: Bools) -> float:
    """The headline error before calibration on some of the rows; NaN if these are too few."""
    if HEADLINE.noisy(int(at_N.sum())):
        return float("nan")
    part = forecast(case.raw.logp_NC[at_N], case.raw.label_N[at_N])
    return cells(top_label(part), "mass", USUAL_BINS).error()


def _carries_over(study: Study, parts: Mapping[str, list[float]], by: By) -> StudyAnswer:
    """The answer to whether calibration carries over from part to part of the rows."""
    if len(parts) < 2:
        why = (
            f"parts by {by} with at least {FEWEST_TEST_ROWS} test rows: {len(parts)}, 2 are needed"
        )
        return replace(carries_over(study), figure=Statistic(number=None, why=why))
    unknown_DM = np.full((len(parts), len(study.models)), np.nan)
    # The same question over D parts: one calibrator (none) and one measurement (the headline
    # error). Accuracy and AUROC per part are not needed for it.
    apart = replace(
        study,
        subsets=tuple(parts),
        calibrators=(NONE,),
        columns=(HEADLINE,),
        value_DMLT=np.array(list(parts.values()))[:, :, None, None],
        accuracy_DM=unknown_DM,
        auroc_DM=unknown_DM,
    )
    return carries_over(apart)


def _correlations(study: Study) -> tuple[CorrelationRow, ...]:
    """Correlations of the measurements: over models before calibration, and over pairs of model and
    calibrator after it.
    """
    # Of each measurement the one with the usual number of bins: the others would be near copies.
    columns = tuple(c for c in study.columns if c.bins in (None, USUAL_BINS))
    value_XLT = study.value_DMLT[0][:, :, [study.columns.index(c) for c in columns]]
    # X is M: calibrator 0 is "none", so [:, 0] is before calibration.
    cases = {
        "models, before calibration": value_XLT[:, 0],
        "models and calibrators, after": value_XLT[:, 1:],
    }
    return tuple(
        CorrelationRow(
            over=over,
            columns=tuple(map(str, columns)),
            tau=tuple(
                tuple(figure.number for figure in row)
                for row in correlations(list(value.reshape(-1, len(columns)).T))
            ),
        )
        for over, value in cases.items()
    )


def _ranking(study: Study, kind_M: Ints, column: Column) -> CalibratorRanking:
    """Rank the calibrators that were fitted on every model: ranking one that was not would drop
    that model for all.
    """
    everywhere = [
        k for k in range(len(study.calibrators)) if np.isfinite(study.values(HEADLINE, k)).all()
    ]
    errors_ML = np.stack([study.values(column, k).ravel() for k in everywhere], axis=1)
    found = rank([study.calibrators[k] for k in everywhere], errors_ML, kind_M)
    standings = (
        StandingRow(
            place=s.place,
            calibrator=s.calibrator,
            mean_rank=s.mean_rank,
            best_in=s.best_in,
            behind=s.behind,
        )
        for s in found.standings
    )
    return CalibratorRanking(
        measurement=str(column),
        cases=found.cases,
        kinds=found.kinds,
        needed=found.needed,
        standings=tuple(standings),
    )


def _model(case: ModelRows, kind: int) -> ModelRow:
    return ModelRow(
        name=case.name,
        calibrate_rows=len(case.groups),
        test_rows=len(case.examples),
        accuracy=_accuracy(case.raw),
        auroc=view_auroc(refusal(case.raw)).number,
        kind=kind,
    )


def _answer(answer: StudyAnswer) -> AnswerRow:
    return AnswerRow(
        question=answer.question,
        verdict=answer.verdict,
        figure=answer.figure.number,
        meaning=answer.meaning,
        why=answer.figure.why,
        details={name: figure.number for name, figure in answer.details.items()},
    )


def _accuracy(raw: Forecast) -> float:
    """The share of rows whose most probable control token is the expected one."""
    return float((raw.p_NC.argmax(axis=1) == raw.label_N).mean())
