"""demur plan-labels: goals -> how many labels could certify them, before anything is labelled or
fitted.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from demur.base.errors import ConfigError
from demur.cli import options
from demur.cli.terminal import note, print_json, print_table
from demur.core.goals.parse import parse_goal
from demur.core.settings import Method, PlanFailure
from demur.core.taxonomy import RESPOND

if TYPE_CHECKING:
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
    list[str], typer.Option(metavar="GOAL", help="A promise to plan for. Repeatable.")
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
    Method,
    typer.Option(
        help="How calibrate certifies: one shared threshold, or one per category (path, vectors "
        "learn on 40% of the rows); anytime: looking again as labels come; auto: the best of "
        "several, or what precision and deferrals need."
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
    *,
    goal: GoalFlag,
    have: HaveFlag = None,
    confidence: Annotated[float, typer.Option(help="That all promises hold together.")] = 0.95,
    method: MethodFlag = "auto",
    on_failure: OnFailureFlag = "stop",
    share: ShareFlag = None,
    success: Annotated[
        float, typer.Option(help="The probability of a certificate that is planned for.")
    ] = 0.8,
    as_json: options.AsJson = False,
) -> None:
    """Say what so many labels can promise, and how many would do. Reads no run, calls no model."""
    from demur.stages import plan_labels
    from demur.stages.plan_labels import Config, sentence

    counts = list(map(_count, have or ()))
    told = {kind: n for kind, _, n in counts} or None
    even = len(share) == 1 and share[0].isdecimal() if share else False
    plan = plan_labels.run(
        Config(
            goals=tuple(goal),
            have=told,
            confidence=confidence,
            method=method,
            on_failure=on_failure,
            categories=int(share[0]) if share and even else None,
            shares=dict(map(_share, share)) if share and not even else None,
            success=success,
            errors={kind: k for kind, k, _ in counts if k is not None} or None,
        )
    )
    if as_json:
        print_json([asdict(row) for row in plan])
        return
    # the table, a sentence per goal, then what the words of the header mean
    print_table([HEADER, *map(_cells, plan)], words=2)
    for row in plan:
        note(sentence(row))
    # Categories of goals and of --have; "respond" is in every taxonomy.
    named = {c for text in goal for c in parse_goal(text).categories} | set(told or ()) - {RESPOND}
    if named:
        note(f"no taxonomy is read here, so these names are unchecked: {', '.join(sorted(named))}")
    note(
        "errors allowed: so many among the labels that are tested on (budgets, graphical: in one "
        "category) still certify the goal. lowest level: what these could certify if none errs. "
        f"likely: enough in {success:.0%} of draws, for all goals together, averaged over the true "
        "rates that errors at hand leave open; without such errors, if the true rate is half the "
        "level."
    )


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
