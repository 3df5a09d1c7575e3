"""demur watch: live scores, and labels of some -> whether the promises of a run's policy are still supported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from demur.cli import options
from demur.cli.show import note, print_json, print_table
from demur.cli.workspace import reopen
from demur.stages import watch
from demur.stages.watch import Config, Shift, Sight, Watched

NOT_SUPPORTED = 3  # a result, not a fault


def command(
    run: options.Run,
    *,
    scores: Annotated[
        Path, typer.Option(metavar="FILE", help="Scores of live requests, as `demur score` writes them.")
    ],
    feedback: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help='Labels of a random sample of them: lines of {"id": ..., "label": ...}.'),
    ] = None,
    state: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What was seen before. Default: RUN/watch/state.json.")
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Compare live scores with the calibration scores. Exit code 3 if the evidence so far speaks against a promise."""
    sight = watch.run(Config(scores=scores, feedback=feedback, state=state), reopen(run).folder)
    if as_json:
        print_json(_json(sight))
    else:
        header = ("promise", "level", "verdict", "evidence against it")
        print_table([header, *map(_promise, sight.watched)], words=4)
        print_table(
            [("series", "KS", "JS", "PSI", "refusals, live minus calibration"), *_drift(sight.shifts)],
            title="this file beside the calibration scores, with p-values adjusted together",
        )
        _notes(sight)
    if not sight.supported:
        raise typer.Exit(NOT_SUPPORTED)


def _promise(watched: Watched) -> tuple[str, ...]:
    level = "" if watched.promise.level is None else f"{watched.promise.level:g}"
    alarms = "; ".join(f"{a.text} (p = {a.p_value:.2g} after {a.after})" for a in watched.alarms)
    return (watched.promise.risk, level, watch.verdict(watched), alarms or "none")


def _drift(shifts: Sequence[Shift]) -> list[tuple[str, ...]]:
    """One line per series, a cell per test: the statistic, and its p-value where it has one."""
    cells: dict[str, dict[str, str]] = {}
    for s in shifts:
        p = "" if s.adjusted.number is None else f" (p = {s.adjusted.number:.2g})"
        cells.setdefault(s.series, {})[s.test] = f"{s.statistic:.3f}{p}"
    return [(name, by["ks"], by["js"], by["psi"], by["refusal_rate"]) for name, by in cells.items()]


def _notes(sight: Sight) -> None:
    if not sight.new_rows:
        note("these scores were counted before, and are not counted again")
    note(f"{sight.rows} scores in this file, {sight.monitor.series[0].steps} in all; {sight.new_labels} new labels")
    for a in sight.monitor.audits:
        note(f"audit of {a.risk} <= {a.level:g}: {a.rate.hits} errors among {a.rate.of} requests of its kind")
    if not any(w.promise.status in ("certified", "no longer supported") for w in sight.watched):
        note("this policy has no certified promise: there is nothing that evidence could take away")
    note(f"state: {sight.state}")


def _json(sight: Sight) -> dict[str, object]:
    return {
        "supported": sight.supported,
        "promises": [
            {
                "risk": w.promise.risk,
                "level": w.promise.level,
                "verdict": watch.verdict(w),
                "alarms": [asdict(a) | {"p_value": a.p_value} for a in w.alarms],
            }
            for w in sight.watched
        ],
        "shifts": [asdict(s) | {"p_value": s.p_value.number, "adjusted": s.adjusted.number} for s in sight.shifts],
        "audits": [{"risk": a.risk, "level": a.level, **asdict(a.rate)} for a in sight.monitor.audits],
        "scores": {"file": sight.rows, "new": sight.new_rows, "all": sight.monitor.series[0].steps},
        "new_labels": sight.new_labels,
        "state": str(sight.state),
    }
