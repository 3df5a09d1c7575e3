"""The state of `demur watch`, and the labels that it is told."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import FiniteFloat, NonNegativeFloat, NonNegativeInt

from demur.base.rows import read_rows
from demur.core.errors import DataError, TaxonomyError
from demur.core.taxonomy import Taxonomy
from demur.store.boundary import Strict, read_json, validated
from demur.store.files import write_json
from demur.store.policy_file import RateRow
from demur.store.rows import RowId


class SeriesRow(Strict):
    """One test martingale: demur.stats.drift.martingale, field by field."""

    series: str
    count_B: tuple[NonNegativeInt, ...]
    shares: tuple[NonNegativeFloat, ...]
    log_e: FiniteFloat
    highest_log_e: NonNegativeFloat
    steps: NonNegativeInt
    learns: bool


class AuditRow(Strict):
    """One audited promise: demur.stats.drift.audit, field by field."""

    risk: str
    level: float
    rate: RateRow
    highest_log_e: NonNegativeFloat


class MonitorFile(Strict):
    """What has been seen so far. It grows with the labels and the number of score files, not with the traffic."""

    format: Literal["demur.monitor/1"] = "demur.monitor/1"
    policy: str  # digest of the policy that is watched
    batches: tuple[str, ...] = ()  # digests of the score files that were counted
    labelled: tuple[str, ...] = ()  # ids of the requests whose labels were counted
    series: tuple[SeriesRow, ...]
    audits: tuple[AuditRow, ...]


class FeedbackRow(Strict):
    """One line of a feedback file."""

    id: RowId  # of a scored request
    label: str  # what ought to have happened: "respond", or a category


def write_monitor(path: Path, monitor: MonitorFile) -> None:
    """Write a monitor's state atomically."""
    write_json(path, monitor.model_dump(mode="json"))


def read_monitor(path: Path) -> MonitorFile:
    """Read a monitor's state. Raises ArtifactError naming the file and what is wrong with it."""
    return validated(MonitorFile, read_json(path), str(path))


def read_feedback(path: Path, taxonomy: Taxonomy) -> dict[str, str]:
    """Label by request id, in the order of the file.

    Raises DataError naming file and line, also if an id repeats or no line is there, TaxonomyError on another label.
    """
    found: dict[str, str] = {}
    for raw in read_rows(path):
        row = validated(FeedbackRow, raw.value, raw.where, DataError)
        if row.id in found:
            raise DataError(f"{raw.where}: request {row.id!r} is labelled a second time", "one label a request")
        try:
            taxonomy.column(row.label)
        except TaxonomyError as e:
            raise TaxonomyError(f"{raw.where}, request {row.id!r}: {e.message}", e.hint) from None
        found[row.id] = row.label
    if not found:
        raise DataError(f"{path} has no label", 'a line each: {"id": "...", "label": "respond"}, or a category')
    return found
