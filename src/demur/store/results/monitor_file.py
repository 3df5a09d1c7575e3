"""States of monitors: of `demur watch`, and the live state that servers share; and the labels that
both read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    FiniteFloat,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    model_validator,
)

from demur.base.boundary import Strict, read_json, validated
from demur.base.errors import ArtifactError, DataError, TaxonomyError
from demur.base.files import write_json
from demur.base.rows import read_rows
from demur.core.example import Kind
from demur.core.rates import Rate
from demur.core.rows.facets import OF_LABELS, Facet, require_value
from demur.core.taxonomy import Taxonomy
from demur.store.rows import RowId

UNKNOWN = ""  # the tenant of live scores that were counted before monitors told tenants apart


class WealthRow(Strict):
    """The stakes of a test: demur.stats.drift.wealth, field by field."""

    log_stake_J: tuple[FiniteFloat, ...]
    steps: NonNegativeInt


class SeriesRow(Strict):
    """One test martingale: demur.stats.drift.martingale, field by field."""

    series: str
    count_B: tuple[NonNegativeInt, ...]
    highest_log_e: NonNegativeFloat
    steps: NonNegativeInt
    learns: bool
    wealth: WealthRow | None = None
    # of older versions, which have no wealth: demur.stats.drift.martingale.wealth_of_jumper
    shares: tuple[NonNegativeFloat, ...] | None = None
    log_e: FiniteFloat | None = None


class AuditRow(Strict):
    """One audited promise: demur.stats.drift.audit, field by field."""

    risk: str
    level: float
    rate: Rate
    highest_log_e: NonNegativeFloat
    # None: of older versions, where each request was a unit and nothing began anew
    units: NonNegativeInt | None = None
    wealth: WealthRow | None = None


class SessionRow(Strict):
    """A session that has not ended: demur.stats.drift.sessions, field by field."""

    key: str
    last_s: FiniteFloat
    requests: PositiveInt
    logp_C: tuple[float, ...]
    errors_A: tuple[NonNegativeInt, ...]


class ResetRow(Strict):
    """An operator's reset of a monitor, with the reason. No reset is ever removed from the file."""

    at: str  # ISO 8601, with a time zone
    reason: str
    seen: NonNegativeInt  # live scores and labels that were put away
    against: tuple[str, ...]  # the alarms that were put away, in words


class MonitorRow(Strict):
    """A monitor: demur.stats.drift.monitor.Monitor."""

    series: tuple[SeriesRow, ...]
    audits: tuple[AuditRow, ...]
    open_sessions: tuple[SessionRow, ...] = ()
    # None: of older versions, where every score was a step of every series
    requests: NonNegativeInt | None = None


class MonitorFile(MonitorRow):
    """The state of `demur watch`. It grows with the labels and the number of score files, not with
    the traffic.
    """

    format: Literal["demur.monitor/1"] = "demur.monitor/1"
    policy: str  # digest of the policy that is watched
    batches: tuple[str, ...] = ()  # digests of the score files that were counted
    # digest of a score file -> ids of its requests whose labels were counted
    labels: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    # of older versions: ids whose labels were counted, in any of the first `labelled_in` batches
    labelled: tuple[str, ...] = ()
    labelled_in: NonNegativeInt | None = None  # None: all that stand here
    # sessions whose scores were counted, the last of them; and those with a label that was
    sessions: tuple[str, ...] = ()
    audited: tuple[str, ...] = ()
    # score files without an order in time -> seed of theirs
    permuted: dict[str, int] = Field(default_factory=dict)
    resets: tuple[ResetRow, ...] = ()


class LiveFile(Strict):
    """The state that all servers of a run share for one policy, by tenant."""

    format: Literal["demur.live/1"] = "demur.live/1"
    policy: str  # digest of the policy that is watched
    tenants: dict[str, MonitorRow]
    resets: tuple[ResetRow, ...] = ()
    # name -> rows of it that are counted here
    journals: dict[str, NonNegativeInt] = Field(default_factory=dict)


class FeedbackRow(Strict):
    """One line of a feedback file."""

    id: RowId  # of a scored request
    label: str  # what ought to have happened: "respond", or a category
    # for promises about a slice; None: not said, though a category means "refusal"
    kind: Kind | None = None
    # what else is said of the request: source, tenant, turn, ...; in the file each is a key of
    # its own
    traits: dict[Facet, Annotated[str, Field(min_length=1)]] = Field(default_factory=dict)

    # that the request came in, where the scores do not say it
    session: str | None = Field(default=None, min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _gathered(cls, row: Any) -> Any:
        """The keys that say a facet of the request, gathered as `traits`."""
        if not isinstance(row, dict) or "traits" in row:
            return row
        told = {facet: row[facet] for facet in OF_LABELS if row.get(facet) is not None}
        return {key: value for key, value in row.items() if key not in OF_LABELS} | {"traits": told}


def write_monitor(path: Path, monitor: MonitorFile) -> None:
    """Write a monitor's state atomically."""
    late = ("permuted", "resets", "labels", "labelled", "labelled_in", "sessions", "audited")
    write_json(path, _plain(monitor, *late))


def read_monitor(path: Path) -> MonitorFile:
    """Read a monitor's state. Raises ArtifactError naming the file and what is wrong with it."""
    return validated(MonitorFile, read_json(path), str(path))


def write_live(path: Path, live: LiveFile) -> None:
    """Write the shared live state of a policy atomically."""
    write_json(path, _plain(live, "resets", "journals"))


def read_live(path: Path) -> LiveFile | None:
    """Read the shared live state of a policy; None if there is no file. Raises ArtifactError if it
    is damaged.
    """
    if not path.exists():
        return None
    value = read_json(path)
    # before monitors told tenants apart
    if isinstance(value, dict) and value.get("format") == "demur.monitor/1":
        old = validated(MonitorFile, value, str(path))
        return LiveFile(
            policy=old.policy, tenants={UNKNOWN: MonitorRow(series=old.series, audits=old.audits)}
        )
    if not isinstance(value, dict):
        raise ArtifactError(
            f"{path} is damaged: it holds no object", "restore it, or put it away: start afresh"
        )
    return validated(LiveFile, value, str(path))


def read_feedback(path: Path, taxonomy: Taxonomy) -> dict[str, FeedbackRow]:
    """Read labels by request id, in the order of the file.

    Raises DataError naming file and line; also if an id repeats, if kind and label contradict each
    other, or without a line. Raises TaxonomyError on an unknown label.
    """
    found: dict[str, FeedbackRow] = {}
    for raw in read_rows(path):
        row = validated(FeedbackRow, raw.value, raw.where, DataError)
        if row.id in found:
            raise DataError(
                f"{raw.where}: request {row.id!r} is labelled a second time", "one label a request"
            )
        try:
            taxonomy.column(row.label)
        except TaxonomyError as e:
            raise TaxonomyError(f"{raw.where}, request {row.id!r}: {e.message}", e.hint) from None
        for facet, value in row.traits.items():
            require_value(facet, value, f"{raw.where}, request {row.id!r}")
        if row.kind is not None and (row.kind == "refusal") != (taxonomy.column(row.label) != 0):
            raise DataError(
                f"{raw.where}, request {row.id!r}: label {row.label!r} and kind {row.kind!r} "
                "contradict each other",
                "a category is of kind refusal, respond is of kind contrast or benign",
            )
        found[row.id] = row
    if not found:
        raise DataError(
            f"{path} has no label", 'a line each: {"id": "...", "label": "respond"}, or a category'
        )
    return found


def _plain(file: Strict, *late: str) -> dict[str, Any]:
    """The JSON value, without the keys that came later where they are empty."""
    value = file.model_dump(mode="json", exclude_none=True)
    return {name: v for name, v in value.items() if v or name not in late}
