"""demur train: the rows of a run -> a checkpoint that emits a control token first."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from demur.cli import options
from demur.cli.terminal import TERMINAL, note


def command(
    run: options.Run,
    processes: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Stop unless so many processes take part (torchrun, accelerate).",
            show_default=False,
        ),
    ] = None,
    seen: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help=(
                "Rows or a model that the weights had before: recorded, and nothing trained. "
                "Repeatable."
            ),
        ),
    ] = None,
) -> None:
    """Train, or resume a training that was killed. Under a launcher every process runs this
    command.
    """
    from demur.assembly.run import reopen
    from demur.assembly.steps import Steps
    from demur.stages import train

    workspace = reopen(run)
    if seen:
        record = train.add_seen(seen, workspace.folder)
        note(
            f"recorded: the model has seen {len(record.prompts):,} prompts in "
            f"{len(record.groups):,} groups"
        )
        return
    trained = Steps(workspace, TERMINAL, processes=processes).perform("train")
    # None in all processes but the first
    if trained is not None:
        note(f"{trained.steps} steps; the model is in {workspace.folder.model}")
        note(f"next: demur score {run}")
