"""demur plan-labels: goals -> how many labels could certify them, before anything is labelled or
fitted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from demur.base.errors import ConfigError
from demur.cli import options
from demur.cli.terminal import note, print_json, print_table
from demur.core.goals.parse import parse_goal
from demur.core.goals.reader import lines_of
from demur.core.settings import CalibrateSettings, Method, PlanFailure
from demur.core.taxonomy import RESPOND

if TYPE_CHECKING:
    from demur.assembly.run import Workspace
    from demur.stages.plan_labels import PlanRow

HEADER = (
    "goal",
    "counts requests",
    "at hand",
    "errors allowed",
    "lowest level",
    "needed, no error",
    "needed, likely",
)


GoalFlag = Annotated[
    list[str] | None,
    typer.Option(
        metavar="GOAL",
        help="A promise to plan for. Repeatable. Default: those of RUN.",
        show_default=False,
    ),
]
RunArgument = Annotated[
    Path | None,
    typer.Argument(
        metavar="RUN",
        help="Plan by what the scored test rows of this run show, for its calibrate rows.",
        show_default=False,
    ),
]
ConfidenceFlag = Annotated[
    float | None,
    typer.Option(help="That all promises hold together. Default: 0.95, or that of RUN."),
]
HaveFlag = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KIND=N",
        help="Labels at hand: respond=400, safety=30, contrast=39, source=mine=20; of refused "
        "requests precision=90; with errors that were seen, safety=1/30. Repeatable.",
    ),
]
MethodFlag = Annotated[
    Method | None,
    typer.Option(
        help="How calibrate certifies: one shared threshold, or one per category (path, vectors "
        "learn on 40% of the rows); anytime: looking again as labels come; auto: the best of "
        "several, or what precision and deferrals need. Default: auto, or that of RUN."
    ),
]
OnFailureFlag = Annotated[
    PlanFailure,
    typer.Option(help="hard_only: soft goals may be given up, which takes more labels."),
]
ShareFlag = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=SHARE",
        help="How budgets and graphical divide: 5, evenly over so many categories; or safety=0.6, "
        "one per category.",
    ),
]


def command(
    run: RunArgument = None,
    *,
    goal: GoalFlag = None,
    have: HaveFlag = None,
    confidence: ConfidenceFlag = None,
    method: MethodFlag = None,
    on_failure: OnFailureFlag = "stop",
    share: ShareFlag = None,
    success: Annotated[
        float, typer.Option(help="The probability of a certificate that is planned for.")
    ] = 0.8,
    as_json: options.AsJson = False,
) -> None:
    """Say what so many labels can promise, and how many would do. Calls no model."""
    from demur.stages import plan_labels
    from demur.stages.plan_labels import Config, sentence

    workspace = _workspace(run, have)
    own = CalibrateSettings() if workspace is None else workspace.config.calibrate
    goals = tuple(goal or _promises(own))
    counts = list(map(_count, have or ()))
    told = {kind: n for kind, _, n in counts} or None
    even = len(share) == 1 and share[0].isdecimal() if share else False
    config = Config(
        goals=goals,
        have=told,
        confidence=own.confidence if confidence is None else confidence,
        method=method or own.method,
        on_failure=on_failure,
        categories=int(share[0]) if share and even else None,
        shares=dict(map(_share, share)) if share and not even else None,
        success=success,
        errors={kind: k for kind, k, _ in counts if k is not None} or None,
    )
    if workspace is None:
        plan = plan_labels.run(config)
    else:
        plan = plan_labels.for_run(config, own, workspace.config.taxonomy, workspace.folder)
    if as_json:
        print_json([asdict(row) for row in plan])
        return
    # the table, a sentence per goal, then what the words of the header mean
    print_table([HEADER, *map(_cells, plan)], words=2)
    for row in plan:
        note(sentence(row))
    # Categories of goals and of --have; "respond" is in every taxonomy.
    named = {c for text in goals for c in parse_goal(text).categories} | set(told or ()) - {RESPOND}
    if named and workspace is None:
        note(f"no taxonomy is read here, so these names are unchecked: {', '.join(sorted(named))}")
    note(_words_of_header(success, by_run=workspace is not None))


def _words_of_header(success: float, *, by_run: bool) -> str:
    """What the words of the table's header mean."""
    open_rates = (
        "the run's test rows leave open. at hand: its calibrate rows, whose scores stay unread."
        if by_run
        else "errors at hand leave open; without such errors, if the true rate is half the level."
    )
    return (
        "errors allowed: so many among the labels that are tested on (budgets, graphical: in one "
        "category) still certify the goal. lowest level: what these could certify if none errs. "
        f"likely: enough in {success:.0%} of draws, for all goals together, averaged over the true "
        f"rates that {open_rates}"
    )


def _workspace(run: Path | None, have: Sequence[str] | None) -> Workspace | None:
    """Open the run to plan for, if one is named. Raises ConfigError on counts beside it."""
    if run is None:
        return None
    if have:
        raise ConfigError(
            f"--have {have[0]!r} beside {str(run)!r}: the rows of the run are counted",
            "leave one out",
        )
    from demur.assembly.run import reopen

    return reopen(run)


def _promises(settings: CalibrateSettings) -> list[str]:
    """The promises among the goals of a run. Raises ConfigError where there is none."""
    found = [text for text in lines_of(settings.goal) if parse_goal(text).promised]
    if not found:
        raise ConfigError(
            f"no goal is named, and {settings.goal!r} promises nothing",
            'name one, such as --goal "false_refusal <= 0.05"',
        )
    return found


def _cells(row: PlanRow) -> tuple[str, ...]:
    """A row of the table. Without labels at hand nothing can be said of levels and errors."""
    if row.have is None:
        at_hand = ("not told", "", "")
    else:
        allowed = "not even 0" if row.allowed is None else str(row.allowed)
        at_hand = (str(row.have), allowed, "none" if row.lowest is None else f"{row.lowest:.2%}")
    return (row.goal, row.labels, *at_hand, str(row.needed), str(row.likely or "none"))


def _count(text: str) -> tuple[str, int | None, int]:
    """Parse "safety=30" as ("safety", None, 30) and "safety=1/30" as ("safety", 1, 30). Raises
    ConfigError.
    """
    kind, equals, number = text.rpartition("=")  # "source=mine=30" counts a slice
    errors, slash, rows = number.strip().rpartition("/")
    read = (rows.strip(), errors.strip()) if slash else (rows.strip(),)
    if not equals or not kind.strip() or not all(n.isdecimal() for n in read):
        raise ConfigError(
            f"cannot read --have {text!r}",
            "write --have KIND=N, e.g. --have respond=400 --have safety=30, or safety=1/30 with "
            "the errors seen",
        )
    return kind.strip(), int(errors) if slash else None, int(rows)


def _share(text: str) -> tuple[str, float]:
    """Parse "safety=0.6" as ("safety", 0.6). Raises ConfigError."""
    name, _, number = text.partition("=")
    try:
        return name.strip(), float(number)
    except ValueError:
        raise ConfigError(
            f"cannot read --share {text!r}", "write --share NAME=SHARE, e.g. --share safety=0.6"
        ) from None
