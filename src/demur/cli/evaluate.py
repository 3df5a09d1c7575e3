"""demur evaluate: answers to the test prompts, judged; every policy read off the same answers."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

import typer

from demur.cli import options
from demur.cli.show import note, print_json, print_table
from demur.cli.steps import Steps
from demur.cli.workspace import Workspace, reopen
from demur.stages import evaluate
from demur.store.boundary import read_json


def command(
    run: options.Run,
    branches: Annotated[
        Literal["reachable", "all"] | None,
        typer.Option(help="Which forced tokens' answers to write. (config)", show_default=False),
    ] = None,
    also: Annotated[
        list[str] | None, typer.Option(metavar="GOAL", help="Another goal to measure beside the policy. Repeatable.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Write answers for so many test prompts only. (config)", show_default=False)
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Measure the policy on prompts that neither training nor calibration saw."""
    workspace = reopen(run)
    given = {"branches": branches, "also": tuple(also) if also else None, "limit": limit}
    stage = replace(workspace.config.evaluate, **{k: v for k, v in given.items() if v is not None})
    workspace = Workspace(workspace.folder, replace(workspace.config, evaluate=stage))
    evaluation = Steps(workspace).perform("evaluate")
    if as_json:
        print_json(read_json(workspace.folder.metrics))
        return
    print_evaluation(evaluation)
    note(f"next: demur report {run}")


def print_evaluation(evaluation: evaluate.Evaluation) -> None:
    """What each policy does on the test split: a table per policy, then the goals that no threshold meets."""
    for block in evaluate.table_rows(evaluation):
        print_table([evaluate.HEADER, *block.rows], title=block.title)
    for goal in evaluation.unmet:
        note(f"not shown: {goal.goal}: {goal.reason}")
