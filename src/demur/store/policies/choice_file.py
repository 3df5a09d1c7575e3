"""calibrate/calibrator.json: which calibrator was chosen, why, and on which rows. The map itself is
in policy.json.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from demur.base.boundary import Strict, read_json, validated
from demur.base.files import write_json


class TrialRow(Strict):
    """One family on held-out folds: a FamilyTrial of demur.stats.calibrators.choose, which store
    may not import.
    """

    family: str
    log_loss: float | None  # nats per row; null if it could not be fitted
    brier: float | None
    behind: float | None  # log loss above the lowest
    noise: float | None  # standard error of that difference
    failure: str


class CalibratorChoice(Strict):
    """calibrator.json."""

    format: Literal["demur.calibrator/1"] = "demur.calibrator/1"
    asked: str  # "auto", or the family's name
    family: str
    why: str
    notes: tuple[str, ...]  # what the reader of its probabilities should know
    # of the calibrate rows, about: with the seed it tells which rows, see
    # demur.stats.sample.divide_rows
    share: float
    seed: int
    fitted_on: int  # calibrate rows that the calibrator was fitted on
    left: int  # calibrate rows that thresholds were chosen on
    # simple families first; none where the family was asked for by name
    trials: tuple[TrialRow, ...]


def write_choice(path: Path, choice: CalibratorChoice) -> None:
    """Write calibrator.json atomically."""
    write_json(path, choice.model_dump(mode="json"))


def read_choice(path: Path) -> CalibratorChoice | None:
    """Read calibrator.json; None if no calibrator was asked for. Raises ArtifactError naming the
    file and the fault.
    """
    return validated(CalibratorChoice, read_json(path), str(path)) if path.exists() else None
