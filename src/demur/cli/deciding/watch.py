"""demur watch: live scores, and labels of some of them -> whether the promises of a run's policy
still hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from demur.base.errors import ConfigError
from demur.cli import options
from demur.cli.policies import run_with_policy
from demur.cli.terminal import note, print_json, print_table

if TYPE_CHECKING:
    from demur.stages.watch import LabelCount, PromiseState, Shift, WatchResult

NOT_SUPPORTED = 3  # a result, not a fault


ScoresFlag = Annotated[
    Path | None,
    typer.Option(
        metavar="PATH",
        help="Scores of live requests: a file, or a folder of them as a server writes.",
    ),
]
FeedbackFlag = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help=(
            'Lines of {"id": ..., "label": ...}: a random sample of them; "kind", "source", '
            '"tenant", ... for slices, "session" where the scores do not name it.'
        ),
    ),
]
StateFlag = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="What was seen before. Default: RUN/watch/state.json."),
]
InOrderFlag = Annotated[
    bool, typer.Option("--in-order", help="The rows are in the order in which requests came.")
]
ResetFlag = Annotated[
    str | None,
    typer.Option(
        metavar="REASON", help="Put away what was seen, also by servers; the reason is kept."
    ),
]


def command(
    run: options.Run,
    *,
    scores: ScoresFlag = None,
    feedback: FeedbackFlag = None,
    state: StateFlag = None,
    policy: options.OfRun = None,
    in_order: InOrderFlag = False,
    reset: ResetFlag = None,
    as_json: options.AsJson = False,
) -> None:
    """Compare live scores with the calibration scores. Exit code 3 if the evidence so far speaks
    against a promise.
    """
    from demur.assembly.run import reopen
    from demur.stages import watch
    from demur.stages.watch import Config

    folder = run_with_policy(reopen(run).folder, policy)
    # A reset comes first: scores given beside it are the first that the new monitor counts.
    if reset is not None:
        changed = watch.reset(folder, reset, datetime.now(UTC), state)
        note(f"put away, and the reason kept: {', '.join(map(str, changed))}")
    # a reset alone is enough; labels without the scores of their requests are not
    if scores is None:
        if reset is None or feedback is not None:
            raise ConfigError(
                "there is nothing to look at", "give --scores PATH, or --reset REASON"
            )
        return
    found = watch.run(
        Config(scores=scores, feedback=feedback, state=state, in_order=in_order), folder
    )
    if as_json:
        print_json(_json(found))
    else:
        header = ("promise", "level", "verdict", "evidence against it, or its assumption")
        print_table([header, *map(_promise, found.watched)], words=4)
        # three distances and the change of the refusal rate, which the monitor does not decide by
        print_table(
            [
                ("series", "KS", "JS", "PSI", "refusals, live minus calibration"),
                *_drift(found.shifts),
            ],
            title="these scores beside the calibration scores, with p-values adjusted together",
        )
        _notes(found)
    if not found.supported:
        raise typer.Exit(NOT_SUPPORTED)


def _promise(watched: PromiseState) -> tuple[str, ...]:
    from demur.stages import watch

    """A row of the table: a promise, its state, and the alarms against it or its assumption."""
    level = "" if watched.promise.level is None else f"{watched.promise.level:g}"
    found = (*watched.alarms, *watched.drift)
    alarms = "; ".join(f"{a.text} (p = {a.p_value:.2g} after {a.after})" for a in found)
    # never certified, by digest or signature: no evidence says more about it
    if watched.promise.fault is not None:
        alarms = watched.promise.fault
    return (watched.promise.risk, level, watch.promise_status(watched), alarms or "none")


def _drift(shifts: Sequence[Shift]) -> list[tuple[str, ...]]:
    """A row per series, a cell per test: the statistic, and its p-value where it has one."""
    # Shifts come test by test; the table has them series by series.
    cells: dict[str, dict[str, str]] = {}
    for s in shifts:
        p = "" if s.adjusted.number is None else f" (p = {s.adjusted.number:.2g})"
        cells.setdefault(s.series, {})[s.test] = f"{s.statistic:.3f}{p}"
    return [(name, by["ks"], by["js"], by["psi"], by["refusal_rate"]) for name, by in cells.items()]


def _notes(found: WatchResult) -> None:
    """Note what the tables do not show: limits of the evidence, its size, and where it is
    stored.
    """
    if not found.new_rows:
        note("these scores were counted before, and are not counted again")
    if found.permuted:
        note(
            f"{found.permuted} score files have no order in time: their rows were put into a "
            "random one (seed 0), and a change within a file is not seen; --in-order if they are "
            "in the order in which requests came"
        )
    if found.drifted:
        note(
            "drift seen: requests no longer look like those that were calibrated on. No promise is "
            "lost by that; label a random sample (--feedback) to see whether one is, and calibrate "
            "again on new rows"
        )
    if unlabelled := [w.promise.risk for w in found.watched if w.unlabelled]:
        note(
            f"no label is about the slice of {', '.join(unlabelled)}: --feedback with kind and "
            "source, as far as the promise asks for them, is what would show a rate above its "
            "level"
        )
    _session_notes(found)
    note(f"{found.rows} scores here, {found.monitor.requests} in all")
    _label_notes(found.labels)
    for a in found.monitor.audits:
        units = "" if a.units == a.rate.of else f", {a.units} units of evidence"
        note(
            f"audit of {a.risk} <= {a.level:g}: {a.rate.hits} errors among {a.rate.of} requests "
            f"of its kind{units}"
        )
    # Only these can lose their support.
    if not any(w.promise.status in ("certified", "no longer supported") for w in found.watched):
        note("this policy has no certified promise: there is nothing that evidence could take away")
    note(f"state: {found.state}")


def _session_notes(found: WatchResult) -> None:
    """Note which requests are taken to be independent of each other."""
    if not found.sessions:
        note(
            "no score names a session: each request is taken to be independent of the others. "
            "Requests of one conversation or user are not, and would look like drift"
        )
    elif found.alone:
        note(
            f"{found.rows - found.alone} scores are of {found.sessions} sessions, {found.alone} "
            "name none: each of these is taken to be independent of all others"
        )
    else:
        note(f"{found.rows} scores are of {found.sessions} sessions: each is one unit of evidence")
    if found.left_out:
        note(
            f"{found.left_out} new scores are not counted: their sessions were counted with files "
            "given before. Give the files of a session together"
        )


def _label_notes(labels: LabelCount) -> None:
    """Note what became of each label that was given."""
    if not labels.given:
        return
    note(f"{labels.given} labels given, {labels.new} counted now")
    if labels.before:
        note(
            f"{labels.before} labels are not counted again: they were counted before, of the same "
            "requests in the same score files"
        )
    if labels.late:
        note(
            f"{labels.late} labels are not counted: other labels of their sessions were counted "
            "before. Give the labels of a session together"
        )
    if labels.repeated:
        note(
            f"{labels.repeated} of the labels counted now have ids that were counted in another "
            "score file: they count as other requests. If they are the same, reset, and give each "
            "request in one file"
        )
    if labels.unspoken:
        note(
            f"{labels.unspoken} of the labels counted now are no evidence: no watched promise "
            "speaks of such requests"
        )


def _json(found: WatchResult) -> dict[str, object]:
    """The same for programs: promises with alarms, shifts, audits, and counts."""
    from demur.stages import watch

    return {
        "supported": found.supported,
        "drift_seen": found.drifted,
        "permuted_files": found.permuted,
        "promises": [
            {
                "risk": w.promise.risk,
                "level": w.promise.level,
                "verdict": watch.promise_status(w),
                "alarms": [asdict(a) | {"p_value": a.p_value} for a in w.alarms],
                "drift": [asdict(a) | {"p_value": a.p_value} for a in w.drift],
            }
            for w in found.watched
        ],
        "shifts": [
            asdict(s) | {"p_value": s.p_value.number, "adjusted": s.adjusted.number}
            for s in found.shifts
        ],
        "audits": [
            {"risk": a.risk, "level": a.level, "units": a.units, **asdict(a.rate)}
            for a in found.monitor.audits
        ],
        "scores": {
            "file": found.rows,
            "new": found.new_rows,
            "all": found.monitor.requests,
            "sessions": found.sessions,
            "without_session": found.alone,
            "left_out": found.left_out,
        },
        "new_labels": found.labels.new,
        "labels": asdict(found.labels),
        "state": str(found.state),
    }
