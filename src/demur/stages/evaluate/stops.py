"""What a policy's monitor does to the test rows: as a row of metrics.json, and as tables for the
terminal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from demur.core.policy import Policy
from demur.core.rates import Rate
from demur.stages.evaluate.comparison import Comparison
from demur.stats.midway.errors import Fates, stop_errors
from demur.store.results.metrics_file import (
    Evaluation,
    FatesRow,
    LeakedRow,
    MeasuredRate,
    PolicyMetrics,
    StopsRow,
)

FATES_HEADER = (
    "requests",
    "rows",
    "refused at once",
    "stopped midway",
    "answered to the end",
    "false or missed stops",
)
FALSE_HEADER = ("false stops", "answers", "stopped")
_MOST_SUBCATEGORIES = 5  # with the most false stops, on the terminal


@dataclass(frozen=True, kw_only=True, slots=True)
class StopTable:
    """A table about the calibrated policy's monitor."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def stops_row(comparison: Comparison, policy: Policy) -> StopsRow | None:
    """Measure a policy's monitor on the test rows. None without one, or without answers that it
    may be counted on.
    """
    monitor = policy.monitor
    if monitor is None or not comparison.answers:
        return None
    found = stop_errors(policy, monitor, comparison.rows, comparison.answers, comparison.examples)
    return StopsRow(
        monitor=f"{monitor.statistic}; {monitor.answers.text}",
        held_back=monitor.held_back,
        fates={name: _fates(fates) for name, fates in found.fates.items()},
        false_stop=MeasuredRate.from_core(found.false_stop),
        missed_stop=MeasuredRate.from_core(found.missed_stop),
        missed_by_category=_measured(found.missed_by_category),
        false_by_length=_measured(found.false_by_length),
        false_by_kind=_measured(found.false_by_kind),
        false_by_subcategory=_measured(found.false_by_subcategory),
        positions={name: dict(by) for name, by in found.positions.items()},
        leaked=None if found.leaked is None else LeakedRow(**asdict(found.leaked)),
    )


def stop_tables(evaluation: Evaluation) -> tuple[StopTable, ...]:
    """Make the tables of the calibrated policy's stops; none where none were measured. Pure."""
    policy = evaluation.policies[1]
    stops = policy.stops
    if stops is None:
        return ()
    return (_fates_table(policy, stops), _false_table(stops))


def leaked_words(stops: StopsRow) -> str:
    """How much of stopped answers a stream has sent, for people."""
    if stops.leaked is None:
        return "stops: no answer to a test row that should be refused is stopped"
    leaked = stops.leaked
    return (
        f"tokens sent before a stop, of requests that should be refused: {leaked.median:g} in the "
        f"middle case, {leaked.p90:g} in nine of ten, {leaked.most} at most; {stops.held_back} are "
        "held back"
    )


def _fates_table(policy: PolicyMetrics, stops: StopsRow) -> StopTable:
    """What becomes of the test rows, by what ought to happen."""
    deferred = any(fates.deferred is not None for fates in stops.fates.values())
    header = [*FATES_HEADER]
    if deferred:
        header.insert(3, "deferred")
    rows = []
    for name, fates in stops.fates.items():
        answerable = name not in stops.missed_by_category
        error = stops.false_stop if answerable else stops.missed_by_category[name]
        row = ["to be answered" if answerable else name, fates.at_once.denominator]
        shown = (fates.at_once, fates.deferred, fates.midway, fates.answered, error)
        row += [rate.words for rate in shown if rate is not None]
        rows.append(tuple(row))
    # one category: its row says it
    if len(stops.missed_by_category) > 1:
        blank = ("",) * (len(header) - 3)
        missed = stops.missed_stop
        rows.append(("all to be refused", missed.denominator, *blank, missed.words))
    return StopTable(
        title=f"stops of the calibrated policy: {policy.goal}; {stops.monitor}",
        header=tuple(header),
        rows=tuple(rows),
    )


def _false_table(stops: StopsRow) -> StopTable:
    """False stops by length, by kind, and by the subcategories that have the most."""
    by = [(f"{name} tokens", rate) for name, rate in stops.false_by_length.items()]
    by += stops.false_by_kind.items()
    stopped = [(name, rate) for name, rate in stops.false_by_subcategory.items() if rate.hits]
    by += sorted(stopped, key=lambda one: -one[1].hits)[:_MOST_SUBCATEGORIES]
    return StopTable(
        title="false stops by the length of the answer, by kind, and where they are the most",
        header=FALSE_HEADER,
        rows=tuple((name, rate.denominator, rate.words) for name, rate in by),
    )


def _fates(fates: Fates) -> FatesRow:
    return FatesRow(
        at_once=MeasuredRate.from_core(fates.at_once),
        deferred=None if fates.deferred is None else MeasuredRate.from_core(fates.deferred),
        midway=MeasuredRate.from_core(fates.midway),
        answered=MeasuredRate.from_core(fates.answered),
    )


def _measured(rates: Mapping[str, Rate]) -> dict[str, MeasuredRate]:
    return {name: MeasuredRate.from_core(rate) for name, rate in rates.items()}
