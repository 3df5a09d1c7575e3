"""demur data: sources -> train, calibrate and test rows."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from demur.assembly.config import load_config
from demur.cli import options
from demur.cli.terminal import TERMINAL, note, print_json, print_table


def command(
    config: options.ConfigPath,
    *,
    data: options.DataFolder = None,
    out: options.Out = None,
    settings: options.Set = None,
    again: Annotated[
        bool,
        typer.Option("--again", help="Also where a model was trained on the rows as they are."),
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """Make a run folder from a config and put its rows there."""
    from demur.assembly.run import new_workspace
    from demur.assembly.steps import Steps
    from demur.cli.all_stages import default_folder
    from demur.stages.data import table

    loaded = load_config(config, data_folder=data, overrides=settings or ())
    folder = out or default_folder(loaded)
    workspace = new_workspace(loaded, folder)
    summary = Steps(workspace, TERMINAL, again=again).perform("data")
    workspace.write_config()
    for warning in summary.warnings:
        note(f"warning: {warning}")
    if as_json:
        print_json(asdict(summary))
    else:
        print_table(table(summary))
    note(f"next: demur train {folder}")
