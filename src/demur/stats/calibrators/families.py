"""The calibrator families by name, roughly from few parameters to many."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from demur.base.errors import ConfigError
from demur.base.suggest import suggest
from demur.core.calibrator import IDENTITY, Calibrator, Fitted
from demur.core.settings import CALIBRATORS as NAMES
from demur.core.settings import NONE
from demur.core.taxonomy import Taxonomy
from demur.stats.calibrators.affine import fit_dirichlet, fit_vector
from demur.stats.calibrators.beta import fit_beta
from demur.stats.calibrators.h.fit import FORMS, HSettings, fit_h
from demur.stats.calibrators.histogram import fit_histogram
from demur.stats.calibrators.isotonic import fit_isotonic
from demur.stats.calibrators.one_vs_rest import fit_one_vs_rest
from demur.stats.calibrators.platt import fit_platt
from demur.stats.calibrators.rows import FitRows, FittedMap, fit_rows
from demur.stats.calibrators.temperature import fit_temperature
from demur.stats.calibrators.venn_abers import fit_venn_abers
from demur.stats.labelled import LabelledScores

FAMILIES: dict[str, Callable[[FitRows], FittedMap]] = {
    "temperature": fit_temperature,
    "platt": partial(fit_one_vs_rest, fit=fit_platt),
    "vector": fit_vector,
    "beta": fit_beta,
    "histogram": partial(fit_one_vs_rest, fit=fit_histogram),
    "isotonic": partial(fit_one_vs_rest, fit=fit_isotonic),
    "venn-abers": partial(fit_one_vs_rest, fit=fit_venn_abers),
    "dirichlet": fit_dirichlet,
    **{
        f"h-{form}-{size}": partial(fit_h, settings=HSettings(form=form, size=size))
        for form, size in FORMS
    },
}


@dataclass(frozen=True, kw_only=True, slots=True)
class FittedFamily:
    """One family, fitted."""

    family: str
    calibrator: Calibrator
    notes: tuple[str, ...] = ()  # what its reader should know


def fit_calibrator(
    family: str,
    rows: LabelledScores,
    taxonomy: Taxonomy,
    groups: Sequence[str | None] | None = None,
) -> FittedFamily:
    """Fit one family on its own split of rows. groups: each row's Example.group.

    Raises ConfigError on an unknown family; DataError, ScoreError on rows that cannot be fitted
    (see FitRows).
    """
    check_family(family)
    return fit_family(family, fit_rows(rows, taxonomy, groups), taxonomy.tokens)


def fit_family(family: str, rows: FitRows, tokens: tuple[str, ...]) -> FittedFamily:
    """Fit one family on rows made ready by fit_rows."""
    if family == NONE:
        return FittedFamily(family=family, calibrator=IDENTITY)
    fit = FAMILIES[family](rows)
    return FittedFamily(
        family=family, calibrator=Fitted(tokens=tokens, map=fit.map), notes=fit.notes
    )


def check_family(family: str) -> None:
    """Raise ConfigError, with a suggestion, on an unknown family."""
    if family not in NAMES:
        raise ConfigError(f"unknown calibrator {family!r}", suggest(family, NAMES))
