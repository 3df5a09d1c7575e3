"""Six questions about the measurements of calibration themselves, answered from a table of many
models.

After "A Benchmark Study on Calibration" (Tao et al. 2024, arXiv 2308.11838), for refusal scores.
Shapes: D subsets of the rows (all rows, or per source or category), M models, L calibrators (the
first is none), T measurements.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np

from demur.base.arrays import Doubles
from demur.base.errors import DataError
from demur.stats.calibration.metrics import BINNED, Column
from demur.stats.calibration.ranking import correlation
from demur.stats.measure import Statistic

StudyVerdict = Literal["yes", "partly", "no", "undefined"]

USUAL_BINS = 15
STRONG, WEAK = 0.7, 0.3  # customary limits; the number always stands beside the word
# the error meant where a question does not name one
HEADLINE = Column(family="ece_em", bins=USUAL_BINS)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Study:
    """Measurements of many models under many calibrators. NaN marks an undefined one; no result of
    this module is NaN.

    Raises DataError when shapes do not fit the names, or when ece_em_15 was not measured.
    """

    subsets: tuple[str, ...]  # D
    models: tuple[str, ...]  # M
    calibrators: tuple[str, ...]  # L; the first changes nothing
    columns: tuple[Column, ...]  # T
    value_DMLT: Doubles  # smaller is better
    accuracy_DM: Doubles  # of the most probable token, before calibration
    auroc_DM: Doubles  # of "ought to be refused", before calibration

    def __post_init__(self) -> None:
        d, m = len(self.subsets), len(self.models)
        of_models = {"accuracy_DM": (d, m), "auroc_DM": (d, m)}
        for name, shape in {
            "value_DMLT": (d, m, len(self.calibrators), len(self.columns)),
            **of_models,
        }.items():
            if getattr(self, name).shape != shape or not all(shape):
                raise DataError(
                    f"{name} has shape {getattr(self, name).shape}",
                    f"the names ask for {shape}, none 0",
                )
        self.values(HEADLINE)

    def values(self, column: Column, calibrator: int = 0) -> Doubles:
        """One measurement of all subsets and models, shape (D, M). Raises DataError if it was not
        taken.
        """
        if column not in self.columns:
            raise DataError(
                f"the study lacks {column}", f"it has {', '.join(map(str, self.columns))}"
            )
        return np.asarray(self.value_DMLT[:, :, calibrator, self.columns.index(column)])


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyAnswer:
    """An answer to one question, with the number it rests on."""

    question: str
    verdict: StudyVerdict  # yes: figure >= 0.7, partly: >= 0.3
    figure: Statistic
    meaning: str  # of the figure
    details: dict[str, Statistic]  # what the figure summarises


def table_row(figures: Mapping[Column, Statistic], columns: Sequence[Column]) -> Doubles:
    """Measurements of one forecast as a row of `value_DMLT`, shape (T,): NaN where undefined."""
    return np.array([np.nan if (number := figures[c].number) is None else number for c in columns])


def answer_questions(study: Study) -> tuple[StudyAnswer, ...]:
    """The six questions, in order. "undefined", with the reason, where the study has too little to
    say.
    """
    return (
        metrics_agree(study),
        bins_matter(study),
        calibrators_help_alike(study),
        calibration_follows_accuracy(study),
        carries_over(study),
        discrimination_tells(study),
    )


def metrics_agree(study: Study) -> StudyAnswer:
    """Whether the measurements put uncalibrated models in the same order."""
    columns = [c for c in study.columns if c.bins in (None, USUAL_BINS)]
    details = {
        f"{a}, {b}": _agreement(study.values(a), study.values(b))
        for a, b in combinations(columns, 2)
    }
    meaning = (
        "median Kendall tau of two measurements over the models, before calibration, "
        f"{USUAL_BINS} bins"
    )
    return _answer("Do the measurements agree?", _median(details), meaning, details)


def bins_matter(study: Study) -> StudyAnswer:
    """Whether the number of bins changes the order of models; raw and after each calibrator."""
    details: dict[str, Statistic] = {}
    for k, calibrator in enumerate(study.calibrators):
        for family in BINNED:
            usual = Column(family=family, bins=USUAL_BINS)
            others = [c for c in study.columns if c.family == family and c != usual]
            if usual in study.columns:
                taus = [_agreement(study.values(c, k), study.values(usual, k)) for c in others]
                details[f"{family}, {calibrator}"] = _mean(taus)
    change = {
        name: Statistic(number=1.0 - f.value) if f.defined else f for name, f in details.items()
    }
    meaning = (
        f"1 - Kendall tau between {USUAL_BINS} bins and another number of them: median of "
        "the families' means"
    )
    return _answer("Does the number of bins matter?", _median(change), meaning, change)


def calibrators_help_alike(study: Study) -> StudyAnswer:
    """Whether every calibrator improves every model."""
    raw = study.values(HEADLINE)
    details: dict[str, Statistic] = {}
    for k, name in enumerate(study.calibrators[1:], start=1):
        after = study.values(HEADLINE, k)
        measured = np.isfinite(raw) & np.isfinite(after)
        # NaN compares as False: a model without a measurement would count as not improved
        improved = (after < raw)[measured]
        share = (
            Statistic(number=float(improved.mean()))
            if len(improved)
            else Statistic(number=None, why="never measured")
        )
        details[name] = share
    shares = [f.value for f in details.values() if f.defined]
    figure = (
        Statistic(number=min(shares))
        if shares
        else Statistic(number=None, why="there is no calibrator to compare")
    )
    meaning = (
        f"share of models whose {HEADLINE} is improved, by the calibrator that improves fewest"
    )
    return _answer("Does calibration help every model alike?", figure, meaning, details)


def calibration_follows_accuracy(study: Study) -> StudyAnswer:
    """Whether accurate models are the calibrated ones; among all, and among the better half."""
    accuracy_DM, error_DM = study.accuracy_DM, study.values(HEADLINE)
    all_D = [correlation(a, -e, "spearman") for a, e in zip(accuracy_DM, error_DM, strict=True)]
    better_D = [
        correlation(a[(top := a >= np.median(a))], -e[top], "spearman")
        for a, e in zip(accuracy_DM, error_DM, strict=True)
    ]
    details = {"all models": _mean(all_D), "the more accurate half": _mean(better_D)}
    meaning = f"Spearman's rho of accuracy and -{HEADLINE} over the models, mean over subsets"
    return _answer(
        "Are accurate models better calibrated?", details["all models"], meaning, details
    )


def carries_over(study: Study) -> StudyAnswer:
    """Whether the models that are calibrated on one subset are so on another."""
    value_DM = study.values(HEADLINE)
    pairs = combinations(zip(study.subsets, value_DM, strict=True), 2)
    details = {f"{a}, {b}": correlation(x_M, y_M) for (a, x_M), (b, y_M) in pairs}
    meaning = f"median Kendall tau of {HEADLINE} on two subsets"
    return _answer(
        "Does calibration carry over to other prompts?", _median(details), meaning, details
    )


def discrimination_tells(study: Study) -> StudyAnswer:
    """Whether models that discriminate well are well calibrated."""
    error_DM = study.values(HEADLINE)
    details = {
        name: correlation(study.auroc_DM[d], -error_DM[d]) for d, name in enumerate(study.subsets)
    }
    meaning = f"median Kendall tau of AUROC and -{HEADLINE} over the models"
    return _answer("Does discrimination tell of calibration?", _median(details), meaning, details)


def _agreement(a_DM: Doubles, b_DM: Doubles) -> Statistic:
    """Mean over subsets of the correlation over models: subsets differ in difficulty, which
    correlates anything.
    """
    return _mean([correlation(a_M, b_M) for a_M, b_M in zip(a_DM, b_DM, strict=True)])


def _mean(figures: Sequence[Statistic]) -> Statistic:
    """Mean of the statistics that are defined; undefined if none is."""
    known = [f.value for f in figures if f.defined]
    return Statistic(number=float(np.mean(known))) if known else _nothing(figures)


def _median(details: Mapping[str, Statistic]) -> Statistic:
    """Median of the statistics that are defined; undefined if none is."""
    known = [f.value for f in details.values() if f.defined]
    return Statistic(number=float(np.median(known))) if known else _nothing(list(details.values()))


def _nothing(figures: Sequence[Statistic]) -> Statistic:
    return Statistic(number=None, why=figures[0].why if figures else "there is nothing to compare")


def _answer(
    question: str, figure: Statistic, meaning: str, details: dict[str, Statistic]
) -> StudyAnswer:
    verdict: StudyVerdict = "undefined"
    if figure.defined:
        verdict = "yes" if figure.value >= STRONG else "partly" if figure.value >= WEAK else "no"
    return StudyAnswer(
        question=question, verdict=verdict, figure=figure, meaning=meaning, details=details
    )
