"""The chapter on answers that the monitor stops: how many, where, and what another threshold would
do. Everything is read off the followed answers to the test rows; no answer is written for it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from demur.core.midway.compared import compared_peaks, with_thresholds
from demur.core.midway.monitor import Monitor
from demur.core.rates import Rate
from demur.pages.drawing import ANSWER, REFUSE, line, small_plot
from demur.pages.parts import Cell, Figure, Panel, Part, Section, Spec, Table
from demur.stages.report.finished_run import FinishedRun
from demur.stats.midway.errors import StopErrors, stop_errors, trade_off
from demur.store.results.metrics_file import MeasuredRate


def stopped(m: FinishedRun) -> tuple[Section, ...]:
    """The chapter; none for a policy without a monitor, or without followed test answers."""
    monitor = m.calibrated.monitor
    if monitor is None or not m.answers:
        return ()
    found = stop_errors(m.calibrated, monitor, m.rows, m.answers, m.examples)
    parts: list[Part] = [
        _fates(m, found),
        _positions(found),
        _by("False stops by length of answer", "tokens of the answer", found.false_by_length),
        _by("False stops by kind and subcategory", "rows", _by_subcategory(found)),
    ]
    if (curve := _trade_off(m, monitor)) is not None:
        parts.append(curve)
    return (
        Section(
            key="stops",
            title="Stopped midway",
            parts=tuple(parts),
            text=(_summary(m, monitor, found),),
        ),
    )


def _summary(m: FinishedRun, monitor: Monitor, found: StopErrors) -> str:
    names = zip(m.calibrated.taxonomy.names, monitor.thresholds, strict=True)
    own = ", ".join(f"{name} from {t:.4g} on" for name, t in names if not math.isinf(t))
    leaked = found.leaked
    told = (
        f"Of stopped answers to what should be refused {leaked.median:g} tokens had been sent in "
        f"the middle case, {leaked.most} at most"
        if leaked is not None
        else "No answer to a test row that should be refused is stopped"
    )
    return (
        f"The monitor reads every position of an answer ({monitor.answers.text}) and stops it "
        f"where the {monitor.statistic} reaches a threshold: {own}. {told}, with "
        f"{monitor.held_back} held back. Every test row was answered after a forced respond token, "
        "also where the first decision refuses."
    )


def _fates(m: FinishedRun, found: StopErrors) -> Table:
    """What becomes of the test rows, by what ought to."""
    rows: list[tuple[Cell, ...]] = []
    for name, fates in found.fates.items():
        missed = found.missed_by_category.get(name)
        deferred = () if fates.deferred is None else (_measured(fates.deferred),)
        rows.append(
            (
                "to be answered" if missed is None else f"to be refused with {name}",
                str(fates.at_once.of),
                _measured(fates.at_once),
                *deferred,
                _measured(fates.midway),
                _measured(fates.answered),
                _measured(found.false_stop if missed is None else missed),
            )
        )
    return Table(
        title="Refused at once, stopped midway, answered",
        header=(
            "test rows",
            "number",
            "refused at once",
            *(("deferred",) if m.calibrated.defers else ()),
            "stopped midway",
            "answered to the end",
            "false or missed stops",
        ),
        rows=tuple(rows),
        caption="The last column counts all answers, also of requests that the first decision "
        "refuses: of those to be answered the stopped ones, of those to be refused the ones that "
        "were written to the end. It is what a promise about stops bounds.",
    )


def _positions(found: StopErrors) -> Figure:
    """Where answers are stopped."""
    panels, rows = [], list[tuple[Cell, ...]]()
    for words, key, colour in (
        ("to be answered", "respond", ANSWER),
        ("to be refused", "refuse", REFUSE),
    ):
        stops = found.positions[key]
        if stops:
            panels.append(Panel(label=words, spec=_bars(list(stops), [*stops.values()], colour)))
        rows += [(words, name, str(number)) for name, number in stops.items()]
    return Figure(
        title="Where answers are stopped",
        caption="Across, tokens of the answer ahead of the stop; up, the number of stops.",
        panels=tuple(panels),
        numbers=Table(
            title="Stops by position",
            header=("requests", "tokens ahead", "stops"),
            rows=tuple(rows),
            text_columns=2,
        ),
    )


def _bars(names: list[str], numbers: list[int], colour: str) -> Spec:
    bars = {"type": "bar", "x": names, "y": numbers, "marker": {"color": colour}}
    return small_plot([bars], {"type": "category", "title": {"text": "tokens ahead"}}, {})


def _by_subcategory(found: StopErrors) -> dict[str, Rate]:
    """False stops by kind, and of the subcategories by those that have the most."""
    by = sorted(found.false_by_subcategory.items(), key=lambda one: -one[1].hits)
    return {**found.false_by_kind, **dict(by)}


def _by(title: str, what: str, rates: Mapping[str, Rate]) -> Table:
    """Rates of false stops, a row each."""
    return Table(
        title=title,
        header=(what, "answers", "stopped, of those to be answered"),
        rows=tuple((name, str(rate.of), _measured(rate)) for name, rate in rates.items()),
        caption="A promise averages over the answers that the rows have: long ones and short, of "
        "every kind.",
        folded=True,
    )


def _trade_off(m: FinishedRun, monitor: Monitor) -> Figure | None:
    """Both errors of stops over the monitor's threshold; None where one kind has no row."""
    assert m.rows.answers is not None  # read together with the answers
    found = trade_off(compared_peaks(monitor, m.rows.answers), m.rows)
    if not found or not m.should_N.any():
        return None
    rows: list[tuple[Cell, ...]] = []
    for value, false, missed in found:
        # an answer's own number, as a threshold of the statistic
        at = [t if math.isinf(t) else math.exp(value) for t in monitor.thresholds]
        threshold = min(with_thresholds(monitor, at).thresholds)
        rows.append((f"{threshold:.4g}", _measured(false), _measured(missed)))
    x = [false.value for _, false, _ in found]
    y = [missed.value for _, _, missed in found]
    spec = small_plot(
        [line(x, y)],
        {"title": {"text": "false stops"}, "tickformat": ".0%"},
        {"title": {"text": "missed stops"}, "tickformat": ".0%"},
    )
    return Figure(
        title="False against missed stops",
        caption="Both errors as the threshold falls, on the test rows: across, answers stopped "
        "that should have been written; up, answers written that should have been stopped.",
        panels=(Panel(label="all categories to be refused", spec=spec),),
        numbers=Table(
            title="Errors by threshold",
            header=("threshold", "false stops", "missed stops"),
            rows=tuple(rows),
        ),
    )


def _measured(rate: Rate) -> MeasuredRate:
    return MeasuredRate.from_core(rate)
