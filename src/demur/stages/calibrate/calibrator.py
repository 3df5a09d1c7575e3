"""Fitting the calibrator on rows of its own, and the files that it leaves beside the policy.

No threshold is chosen on these rows, so that promises about the others hold for the calibrator as
it stands. A correctness-aware calibrator is not part of the policy: it maps the scores themselves,
and the policy decides on the mapped scores, which have a fingerprint of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from demur.base.errors import DataError
from demur.base.files import digest_json
from demur.core.calibrator import IDENTITY, Calibrator
from demur.core.example import SPLITS, Example, RewriteName
from demur.core.fingerprint import Fingerprint
from demur.core.maps import correctness
from demur.core.maps.correctness import CorrectnessAware
from demur.core.policy import Policy
from demur.core.score import ScoreTable
from demur.core.settings import AUTO, NONE, CalibrateSettings
from demur.core.taxonomy import Taxonomy
from demur.stages.calibrate.inputs import Inputs, ids_in
from demur.stats.calibrators.choose import ChooseSettings, FamilyChoice, choose_calibrator
from demur.stats.calibrators.correctness import fit_correctness
from demur.stats.calibrators.families import fit_calibrator
from demur.stats.doubt import require_trained
from demur.stats.labelled import LabelledScores, label_scores
from demur.stats.sample import divide_rows
from demur.store.policies.calibrator_file import write_correctness_aware
from demur.store.policies.choice_file import CalibratorChoice, TrialRow, write_choice
from demur.store.run import RunFolder
from demur.store.scores.cascade_scores import read_cascade_scores
from demur.store.scores.rewritten import (
    calibrated_scores,
    correctness_file,
    correctness_scores,
    read_rewritten,
    rewritten_scores,
)
from demur.store.scores.tables import read_scores, write_scores


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FittedCalibrator:
    """A calibrator, its record, the rows that it was not fitted on, and the scores to choose
    thresholds on.
    """

    left: Sequence[Example]  # the rows and requests that it was not fitted on
    table: ScoreTable  # scores of all rows, mapped by `aware` if that is given
    fingerprint: Fingerprint  # of these scores
    calibrator: Calibrator = IDENTITY
    record: CalibratorChoice | None = None  # None without a calibrator
    # ids of rows left whose units it was fitted on
    taught: frozenset[str] = frozenset()
    # the map that the scores went through; `calibrator` is then the identity
    aware: CorrectnessAware | None = None
    rewrites: tuple[RewriteName, ...] = ()


def fit(
    config: CalibrateSettings, taxonomy: Taxonomy, examples: Sequence[Example], inputs: Inputs
) -> FittedCalibrator:
    """Fit the calibrator that the settings name on its share of the rows; map all scores by it if
    it is correctness-aware.

    Raises ScoreError on scores of an untrained model, DataError where the rows do not suffice.
    """
    folder = inputs.folder
    table, fingerprint = (
        read_cascade_scores(folder, "calibrate")
        if config.cascade
        else read_scores(folder.scores("calibrate"))
    )
    # With most of the probability off the control tokens, no calibrator can make scores mean much.
    require_trained(table.select(tuple(e.id for e in examples)))
    if config.calibrator == NONE:
        return FittedCalibrator(left=examples, table=table, fingerprint=fingerprint)
    divided = divide_rows(examples, config.calibrator_share, config.seed)
    own, left = divided.own, divided.left
    _require_enough(config, own, left)
    _require_not_fitted_on(config, own, taxonomy)
    aware = None
    try:
        if inputs.rewrites:
            rewritten = read_rewritten(folder, "calibrate", inputs.rewrites)
            choice, aware = _correctness(label_scores(own, taxonomy, table), rewritten, taxonomy)
        else:
            choice = _chosen(config, taxonomy, own, table)
    except DataError as e:
        raise DataError(
            f"calibrator {config.calibrator!r}, {len(own)} of the {len(examples)} calibrate rows "
            f"are its own (calibrator_share = {config.calibrator_share:g}): {e.message}",
            e.hint,
        ) from None
    made = FittedCalibrator(
        left=left,
        table=table,
        fingerprint=fingerprint,
        calibrator=choice.calibrator,
        record=_record(config, choice, len(own), len(left)),
        taught=divided.taught,
        rewrites=inputs.rewrites,
    )
    if aware is None:
        return made
    # Mapped scores are other scores: the fingerprint gets a convention of their own.
    logprobs = correctness.convention(digest_json(asdict(aware)))
    table = correctness_scores(aware, folder, "calibrate", inputs.rewrites)
    return replace(
        made, table=table, fingerprint=replace(fingerprint, logprobs=logprobs), aware=aware
    )


def _require_enough(
    config: CalibrateSettings, own: Sequence[Example], left: Sequence[Example]
) -> None:
    """Raise DataError where the calibrator or the thresholds would have no row."""
    if not own or not left:
        raise DataError(
            f"calibrator {config.calibrator!r}: of {len(own) + len(left)} calibrate rows "
            f"{len(own)} are its own and {len(left)} are left for the thresholds",
            "give more rows, move calibrate.calibrator_share, or do without a calibrator",
        )


def _record(
    config: CalibrateSettings, choice: FamilyChoice, own: int, left: int
) -> CalibratorChoice:
    """The record of the calibrators compared, and of the numbers of rows."""
    return CalibratorChoice(
        asked=config.calibrator,
        family=choice.family,
        why=choice.why,
        notes=choice.notes,
        share=config.calibrator_share,
        seed=config.seed,
        fitted_on=own,
        left=left,
        trials=tuple(TrialRow(**asdict(t)) for t in choice.trials),
    )


def _correctness(
    rows: LabelledScores, rewritten: Mapping[str, ScoreTable], taxonomy: Taxonomy
) -> tuple[FamilyChoice, CorrectnessAware]:
    """Fit the correctness-aware calibrator on these rows."""
    fit = fit_correctness(
        rows, {name: t.select(rows.table.ids) for name, t in rewritten.items()}, taxonomy
    )
    notes = (
        (f"the clamp holds the temperature of {fit.clamped:.0%} of these rows",)
        if fit.clamped
        else ()
    )
    why = f"{correctness.NAME}: asked for by name, compared with nothing"
    return FamilyChoice(
        family=correctness.NAME, calibrator=IDENTITY, why=why, trials=(), notes=notes
    ), fit.calibrator


def _chosen(
    config: CalibrateSettings, taxonomy: Taxonomy, own: Sequence[Example], table: ScoreTable
) -> FamilyChoice:
    """Fit the calibrator that is named, or the one that cross-validation picks, on these rows."""
    rows, groups = label_scores(own, taxonomy, table), [e.group for e in own]
    if config.calibrator == AUTO:
        return choose_calibrator(rows, taxonomy, groups, ChooseSettings(seed=config.seed))
    fitted = fit_calibrator(config.calibrator, rows, taxonomy, groups)
    why = f"{fitted.family}: asked for by name, compared with nothing"
    return FamilyChoice(
        family=fitted.family, calibrator=fitted.calibrator, why=why, trials=(), notes=fitted.notes
    )


def _require_not_fitted_on(
    config: CalibrateSettings, own: Sequence[Example], taxonomy: Taxonomy
) -> None:
    """Raise DataError if traffic holds rows that the calibrator is fitted on: rates on them would
    not hold for new requests.
    """
    if config.traffic is not None and (
        twice := {e.id for e in own} & set(ids_in(config.traffic, taxonomy))
    ):
        raise DataError(
            f"{config.traffic}: calibrator {config.calibrator!r} is fitted on {len(twice)} of its "
            "rows",
            "give other requests, or do without a calibrator",
        )


def write_calibrator(folder: RunFolder, fitted: FittedCalibrator, policy: Policy) -> list[Path]:
    """Write the calibrator's files beside the policy, and remove those of an earlier one; returns
    the files written. A policy that was kept in place of this one has none.
    """
    for old in (
        folder.calibrator,
        correctness_file(folder),
        *(calibrated_scores(folder, s) for s in SPLITS),
    ):
        old.unlink(missing_ok=True)
    # Whether the policy is the one that was chosen, and not one to fall back on.
    ours = policy.calibrator is fitted.calibrator and policy.fingerprint == fitted.fingerprint
    made: list[Path] = []
    # A cascade decides on the front's scores where it is sure: they are stored as decided on.
    if ours and fitted.fingerprint.front is not None:
        for split in SPLITS:
            if folder.scores(split).exists():
                made.append(calibrated_scores(folder, split))
                write_scores(made[-1], *read_cascade_scores(folder, split))
    if fitted.record is None or not ours:
        return made
    write_choice(folder.calibrator, fitted.record)
    made.append(folder.calibrator)
    if fitted.aware is None:
        return made
    # Mapped scores of every split that has rewrites, for evaluation and watching.
    write_correctness_aware(correctness_file(folder), fitted.aware)
    made.append(correctness_file(folder))
    for split in SPLITS:
        if rewritten_scores(folder, split, fitted.rewrites[0]).exists():
            made.append(calibrated_scores(folder, split))
            write_scores(
                made[-1],
                correctness_scores(fitted.aware, folder, split, fitted.rewrites),
                fitted.fingerprint,
            )
    return made
