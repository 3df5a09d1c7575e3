"""demur audit: scored requests, and labels of those that it draws -> whether a goal is kept among
them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from demur.cli import options
from demur.cli.policies import run_with_policy
from demur.cli.terminal import note, print_json, print_table

if TYPE_CHECKING:
    from demur.stages.audit import AuditResult

BROKEN = 3  # a result, not a fault

GoalFlag = Annotated[
    str,
    typer.Option(metavar="GOAL", help='The rate to audit: "missed_refusal[safety] <= 0.005".'),
]
ScoresFlag = Annotated[
    Path, typer.Option(metavar="FILE", help="Scores of the requests to audit: the pool.")
]
OutFlag = Annotated[
    Path, typer.Option(metavar="FILE", help="Where the requests to label next go: JSONL.")
]
LabelsFlag = Annotated[
    list[Path] | None,
    typer.Option(metavar="FILE", help="That file with its labels filled in; again for each batch."),
]
BatchFlag = Annotated[int, typer.Option(metavar="N", help="Requests to label next.")]
ConfidenceFlag = Annotated[float, typer.Option(metavar="P", help="Of the verdict.")]


def command(
    run: options.Run,
    *,
    goal: GoalFlag,
    scores: ScoresFlag,
    out: OutFlag,
    labels: LabelsFlag = None,
    batch: BatchFlag = 50,
    confidence: ConfidenceFlag = 0.95,
    policy: options.OfRun = None,
    as_json: options.AsJson = False,
) -> None:
    """Draw requests to label, where errors are likely; stop as soon as the labels settle a goal.
    Exit code 3 if it is broken.
    """
    from demur.assembly.run import reopen
    from demur.stages import audit

    found = audit.run(
        audit.Config(
            scores=scores,
            goal=goal,
            out=out,
            labels=tuple(labels or ()),
            batch=batch,
            confidence=confidence,
        ),
        run_with_policy(reopen(run).folder, policy),
    )
    if as_json:
        print_json(_json(found))
    else:
        _show(found, confidence, out)
    if found.verdict.verdict == "broken":
        raise typer.Exit(BROKEN)


def _show(found: AuditResult, confidence: float, out: Path) -> None:
    v = found.verdict
    words = {
        "kept": f"kept, with {confidence:.0%} confidence",
        "broken": f"broken, with {confidence:.0%} confidence",
        "undecided": "undecided",
    }
    header = ("goal", "among", "verdict", "draws counted", "requests labelled")
    row = (
        f"{found.goal.risk} <= {found.goal.level:g}",
        f"{found.requests} requests",
        words[v.verdict],
        str(v.labels),
        str(found.labelled),
    )
    print_table([header, row])
    if found.early:
        note(f"{found.early} labels wait for one drawn before them: label these too")
    if v.verdict == "undecided":
        likely = "no number of draws" if found.likely is None else f"about {found.likely} draws"
        note(f"{likely} will do if the scores are right; {found.waiting} requests wait in {out}")
        note(f"next: fill in the labels, then the same command with --labels {out} and a new --out")


def _json(found: AuditResult) -> dict[str, object]:
    return {
        "goal": found.goal.risk,
        "level": found.goal.level,
        "requests": found.requests,
        "verdict": found.verdict.verdict,
        "draws": found.verdict.labels,
        "labelled": found.labelled,
        "early": found.early,
        "p_kept": found.verdict.p_kept,
        "p_broken": found.verdict.p_broken,
        "likely": found.likely,
        "waiting": found.waiting,
    }
