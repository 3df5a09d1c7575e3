"""The chapter on answers that the monitor stops: how many, where, and what another threshold would
do. Everything is read off the followed answers to the test rows; no answer is written for it.
"""

from __future__ import annotations

import math

import numpy as np

from demur.base.arrays import Bools
from demur.core.decision import decide_many
from demur.core.midway.compared import compared_peaks, with_thresholds
from demur.core.midway.monitor import Monitor
from demur.core.midway.outcomes import Stops, stops_of, trade_off
from demur.core.rates import Rate
from demur.pages.drawing import ANSWER, REFUSE, line, small_plot
from demur.pages.parts import Cell, Figure, Panel, Part, Section, Spec, Table
from demur.stages.report.finished_run import FinishedRun
from demur.store.results.metrics_file import MeasuredRate


def stopped(m: FinishedRun) -> tuple[Section, ...]:
    """The chapter; none for a policy without a monitor, or without followed test answers."""
    monitor = m.calibrated.monitor
    if monitor is None or not m.answers:
        return ()
    stops = stops_of(monitor, m.answers)
    answerable_N = m.rows.label_N == 0
    parts: list[Part] = [
        _fates(m, stops),
        _positions(stops, answerable_N),
        _lengths(stops, answerable_N),
    ]
    if (curve := _trade_off(m, monitor, answerable_N)) is not None:
        parts.append(curve)
    return (
        Section(
            key="stops",
            title="Stopped midway",
            parts=tuple(parts),
            text=(_summary(m, monitor, stops),),
        ),
    )


def _summary(m: FinishedRun, monitor: Monitor, stops: Stops) -> str:
    names = zip(m.calibrated.taxonomy.names, monitor.thresholds, strict=True)
    own = ", ".join(f"{name} from {t:.4g} on" for name, t in names if not math.isinf(t))
    leaked = stops.leaked_N
    told = (
        f"Of stopped answers {np.median(leaked):.0f} tokens had been sent in the middle case, "
        f"{leaked.max()} at most"
        if len(leaked)
        else "No answer to a test row is stopped"
    )
    return (
        f"The monitor reads every position of an answer ({monitor.answers.text}) and stops it "
        f"where the {monitor.statistic} reaches a threshold: {own}. {told}, with "
        f"{monitor.held_back} held back. Every test row was answered after a forced respond token, "
        "also where the first decision refuses."
    )


def _fates(m: FinishedRun, stops: Stops) -> Table:
    """What becomes of the test rows, by what ought to."""
    refused_N = decide_many(m.calibrated, m.rows.table.logp_NC).refuses_N
    rows: list[tuple[Cell, ...]] = []
    for column, name in enumerate(("to be answered", *m.calibrated.taxonomy.names)):
        among_N = np.asarray(m.rows.label_N == column, dtype=bool)
        if not among_N.any():
            continue
        fates = stops.fates(refused_N, among_N)
        rows.append(
            (
                name if column == 0 else f"to be refused with {name}",
                str(fates.of),
                str(fates.at_once),
                str(fates.midway),
                str(fates.answered),
                _measured(stops.rate(among_N)),
            )
        )
    return Table(
        title="Refused at once, stopped midway, answered",
        header=(
            "test rows",
            "number",
            "refused at once",
            "stopped midway",
            "answered",
            "stopped if answered",
        ),
        rows=tuple(rows),
        caption="The last column counts all answers, also of requests that the first decision "
        "refuses: it is what a promise about stops bounds.",
    )


def _positions(stops: Stops, answerable_N: Bools) -> Figure:
    """Where answers are stopped."""
    panels, rows = [], list[tuple[Cell, ...]]()
    for words, among_N, colour in (
        ("to be answered", answerable_N, ANSWER),
        ("to be refused", ~answerable_N, REFUSE),
    ):
        found = stops.by_position(among_N)
        if found:
            names, numbers = zip(*found, strict=True)
            panels.append(Panel(label=words, spec=_bars(list(names), list(numbers), colour)))
        rows += [(words, name, str(number)) for name, number in found]
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


def _lengths(stops: Stops, answerable_N: Bools) -> Table:
    """False stops by the length of the answer: the longer, the more chances to be stopped."""
    return Table(
        title="False stops by length of answer",
        header=("tokens of the answer", "stopped, of those to be answered"),
        rows=tuple((name, _measured(rate)) for name, rate in stops.by_length(answerable_N)),
        caption="A promise averages over the lengths that answers have.",
        folded=True,
    )


def _trade_off(m: FinishedRun, monitor: Monitor, answerable_N: Bools) -> Figure | None:
    """Both errors of stops over the monitor's threshold; None where one kind has no row."""
    assert m.rows.answers is not None  # read together with the answers
    found = trade_off(compared_peaks(monitor, m.rows.answers), answerable_N, ~answerable_N)
    if not found or not (~answerable_N).any():
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
