"""demur judge: a file of answers -> what a judge says of each."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from demur.assembly.judges import build_judge, read_judge_settings
from demur.base.errors import DataError
from demur.cli import options
from demur.cli.terminal import note, notes, print_json, print_table, progress_bar, top_reasons

# What reading without a category costs, where it was measured: docs/judges.md#without-a-category.
UNTOLD = {
    "phrases": "on XSTest's answers that costs little (kappa .839 instead of .842), but of the "
    "built-in refusals of five categories it finds 73% instead of 99%",
    "trained": "on XSTest's answers that gives kappa .709 instead of .820",
    "llm": (
        "the rubric of their category is not shown to the judge, and what that costs is not "
        "measured"
    ),
}


JudgeFlag = Annotated[
    str, typer.Option(help="phrases, trained, llm, wildguard, or package.module:Class.")
]
OutFlag = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Default: FILE with .verdicts.jsonl.", show_default=False),
]
OverridesFlag = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="As in llm.model=m. Repeatable."),
]


def command(
    file: options.Answers,
    *,
    judge: JudgeFlag = "phrases",
    out: OutFlag = None,
    category: options.Category = None,
    settings: options.SettingsFile = None,
    overrides: OverridesFlag = None,
    as_json: options.AsJson = False,
) -> None:
    """Say of each answer whether it refuses, complies, or does a part. What cannot be judged is
    unscored, with why.
    """
    from demur.stages import judge as stage

    found = read_judge_settings(settings, overrides or (), file.with_suffix(".labels.sqlite"))
    built, spent = build_judge(judge, found)
    to = out or file.with_suffix(".verdicts.jsonl")
    # costs are told also where judging fails or is interrupted: they were paid
    try:
        with progress_bar("judge") as progress:
            summary = stage.run(stage.Config(file=file, out=to, category=category), built, progress)
    finally:
        notes(spent())
    if as_json:
        print_json(asdict(summary))
    else:
        rows = [
            (v, str(n), f"{100 * n / summary.answers:.1f}%") for v, n in summary.verdicts.items()
        ]
        print_table([("verdict", "answers", "share"), *rows], title=summary.judge)
    for reason, count in summary.unscored:
        note(f"unscored: {count} x {reason}")
    # Judges of the user's own are not in the table: nothing was measured of them.
    if summary.without_category and judge in UNTOLD:
        note(
            f"{summary.without_category} of {summary.answers} answers are read without a category; "
            f"{UNTOLD[judge]}. Say what they are held to: a category in each row, or --category "
            "NAME (such as safety)"
        )
    note(f"wrote {to}")
    # nothing was judged: an error, so that a script does not go on with it
    if summary.verdicts["unscored"] == summary.answers:
        reasons = top_reasons(dict(summary.unscored))
        raise DataError(
            f"none of {summary.answers} answers was scored: {reasons}",
            "mend that, and run it again",
        )
