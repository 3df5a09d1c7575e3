"""Choosing a calibrator: cross-validated log loss decides, and the simplest within its noise wins.

1. Every family is fitted on all folds but one, and its log loss measured on that one.
2. The family with the lowest mean loss is the yardstick. Each other family's loss differs from it
   row by row; the standard error of the mean difference is the noise.
3. The first family in the order given (simple first) that is behind by no more than its noise is
   fitted again, on all rows: a one-standard-error rule (Breiman et al. 1984) on paired differences.
Shapes: N rows, F families.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from demur.base.arrays import Doubles, Floats, Ints
from demur.base.errors import ConfigError, DataError
from demur.core.calibrator import Calibrator
from demur.core.settings import NONE
from demur.core.taxonomy import Taxonomy
from demur.stats.calibrators.families import FittedFamily, check_family, fit_family
from demur.stats.calibrators.rows import FitRows, fit_rows, folds
from demur.stats.labelled import LabelledScores

AUTO = (
    NONE,
    "temperature",
    "platt",
    "vector",
    "beta",
    "histogram",
    "h-linear-16",
    "isotonic",
    "venn-abers",
    "dirichlet",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ChooseSettings:
    """The families to compare, and the folds. Raises ConfigError on an unknown family, no family,
    or fewer than two folds.
    """

    families: tuple[str, ...] = AUTO  # simple first: order breaks near-ties
    folds: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.families or self.folds < 2:
            raise ConfigError(
                f"{len(self.families)} calibrators over {self.folds} folds",
                "at least one, over two folds",
            )
        for family in self.families:
            check_family(family)


@dataclass(frozen=True, kw_only=True, slots=True)
class FamilyTrial:
    """One family on held-out folds. Both scores are proper: lower is better, and only the truth is
    lowest.
    """

    family: str
    log_loss: float | None  # nats per row; None if it could not be fitted
    brier: float | None  # squared error summed over control tokens, per row
    behind: float | None  # log loss above the lowest
    noise: float | None  # standard error of that difference, over groups
    failure: str = ""  # why it could not be fitted


@dataclass(frozen=True, kw_only=True, slots=True)
class FamilyChoice:
    """The chosen family fitted on all rows, why it was chosen, and what it was compared with."""

    family: str
    calibrator: Calibrator
    why: str
    trials: tuple[FamilyTrial, ...]
    notes: tuple[str, ...] = ()


def choose_calibrator(
    rows: LabelledScores,
    taxonomy: Taxonomy,
    groups: Sequence[str | None] | None = None,
    settings: ChooseSettings | None = None,
) -> FamilyChoice:
    """The simplest family whose held-out log loss is within one standard error of the lowest,
    fitted on all rows.

    groups: each row's Example.group; folds never part a group. Raises DataError when no family can
    be fitted.
    """
    s = settings or ChooseSettings()
    fit = fit_rows(rows, taxonomy, groups)
    parts = list(folds(fit, s.folds, s.seed))
    tried = [
        _held_out(family, rows.table.logp_NC, fit, taxonomy.tokens, parts) for family in s.families
    ]
    losses = {t.family: t.loss_N for t in tried if not t.failure}
    if not losses:
        raise DataError(
            f"no calibrator can be fitted: {tried[0].failure}", "give more rows, of every label"
        )
    # only log loss chooses: it is proper, and the Brier score is there to be read beside it
    lowest = min(losses, key=lambda f: float(losses[f].mean()))
    trials = tuple(_trial(t, losses[lowest], fit.group_N) for t in tried)
    chosen = next(
        t for t in trials if t.behind is not None and t.noise is not None and t.behind <= t.noise
    )
    fitted = fit_family(chosen.family, fit, taxonomy.tokens)
    return FamilyChoice(
        family=chosen.family,
        calibrator=fitted.calibrator,
        why=_why(chosen, next(t for t in trials if t.family == lowest), s.folds),
        trials=trials,
        notes=fitted.notes,
    )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Tried:
    """One family's losses on each held-out row; empty where a fold could not be fitted."""

    family: str
    loss_N: Doubles
    brier_N: Doubles
    failure: str = ""


def _held_out(
    family: str,
    logp_NC: Floats,
    rows: FitRows,
    tokens: tuple[str, ...],
    parts: Sequence[tuple[Ints, Ints]],
) -> _Tried:
    loss_N, brier_N = np.empty(len(logp_NC)), np.empty(len(logp_NC))
    for fit, out in parts:
        try:
            fitted: FittedFamily = fit_family(family, rows.take(fit), tokens)
        except DataError as e:
            return _Tried(
                family=family,
                loss_N=loss_N[:0],
                brier_N=brier_N[:0],
                failure=f"in a fold: {e.message}",
            )
        logq_NC = fitted.calibrator.apply(logp_NC[out]).astype(np.float64)
        at = np.arange(len(out)), rows.label_N[out]
        loss_N[out] = -logq_NC[at]
        q_NC = np.exp(logq_NC)
        # |q - e_label|^2 = |q|^2 - 2 q_label + 1
        brier_N[out] = (q_NC**2).sum(axis=1) - 2.0 * q_NC[at] + 1.0
    return _Tried(family=family, loss_N=loss_N, brier_N=brier_N)


def _trial(tried: _Tried, lowest_N: Doubles, group_N: Ints) -> FamilyTrial:
    if tried.failure:
        return FamilyTrial(
            family=tried.family,
            log_loss=None,
            brier=None,
            behind=None,
            noise=None,
            failure=tried.failure,
        )
    difference_N = tried.loss_N - lowest_N
    behind = float(difference_N.mean())
    # Rows of a group err together: the group is the unit of chance. Squares of the groups' summed
    # deviations give the variance of the sum (a cluster-robust standard error).
    noise = float(np.sqrt((np.bincount(group_N, weights=difference_N - behind) ** 2).sum())) / len(
        difference_N
    )
    mean, brier = float(tried.loss_N.mean()), float(tried.brier_N.mean())
    return FamilyTrial(family=tried.family, log_loss=mean, brier=brier, behind=behind, noise=noise)


def _why(chosen: FamilyTrial, lowest: FamilyTrial, count: int) -> str:
    measured = f"{chosen.family}: log loss {chosen.log_loss:.4f} on rows held out in {count} folds"
    if chosen.family == lowest.family:
        return (
            f"{measured}, the lowest, and no simpler calibrator comes within one standard "
            "error of it"
        )
    return (
        f"{measured}; {lowest.family} has the lowest, {lowest.log_loss:.4f}, but the difference of "
        f"{chosen.behind:.4f} is within one standard error ({chosen.noise:.4f}), and "
        f"{chosen.family} is simpler"
    )
