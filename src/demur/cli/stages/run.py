"""demur run: all stages of a config, resuming where an earlier run stopped."""

from __future__ import annotations

from typing import Annotated

import typer

from demur.assembly.config import load_config
from demur.cli import options
from demur.cli.all_stages import default_folder, run_all
from demur.store.run import Stage


def command(
    config: options.ConfigPath,
    *,
    data: options.DataFolder = None,
    out: options.Out = None,
    start: Annotated[
        Stage | None,
        typer.Option("--from", help="Do this stage and the later ones again.", show_default=False),
    ] = None,
    settings: options.Set = None,
) -> None:
    """Prepare, train, score, calibrate, evaluate, report."""
    from demur.assembly.run import new_workspace

    loaded = load_config(config, data_folder=data, overrides=settings or ())
    run_all(new_workspace(loaded, out or default_folder(loaded)), start)
