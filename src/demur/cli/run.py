"""demur run: all stages of a config, resuming where an earlier run stopped."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from demur.cli import options
from demur.cli.evaluate import print_evaluation
from demur.cli.policy_text import tell_policy
from demur.cli.predictors import PREDICTORS
from demur.cli.show import note
from demur.cli.steps import Steps
from demur.cli.workspace import Workspace, create
from demur.config import RunConfig, load_config
from demur.core.errors import ConfigError
from demur.store.run import STAGES, RunFolder, Stage


def command(
    config: options.ConfigPath,
    *,
    data: options.DataFolder = None,
    out: options.Out = None,
    start: Annotated[
        Stage | None, typer.Option("--from", help="Do this stage and the later ones again.", show_default=False)
    ] = None,
    settings: options.Set = None,
) -> None:
    """Prepare, train, score, calibrate, evaluate, report."""
    loaded = load_config(config, data_folder=data, overrides=settings or ())
    run_all(create(loaded, out or default_folder(loaded)), start)


def default_folder(config: RunConfig) -> Path:
    """Where a run goes that was not told where."""
    return Path("runs") / config.name


def run_all(workspace: Workspace, start: Stage | None = None) -> None:
    """Every stage in turn; the measured table on stdout, the report's path last.

    Where the run's engine writes no answers, there is none to measure: its policy is the last stage.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(
            "several processes cannot share `demur run`", "launch only the training so: torchrun ... -m demur train RUN"
        )
    if start is not None:
        _forget(workspace.folder, start)
    steps = Steps(workspace)
    if workspace.config.engine in PREDICTORS:
        policy = [steps.perform(stage) for stage in STAGES[: STAGES.index("evaluate")]][-1]
        tell_policy(policy)
        note(f"left out: evaluate and report; engine {workspace.config.engine!r} writes no answers")
        note(f"next: demur serve {workspace.folder.root} --url URL")
        return
    steps.check_judge()  # a misspelt judge must not come to light after the training
    results = {stage: steps.perform(stage) for stage in STAGES}
    print_evaluation(results["evaluate"])
    tell_policy(results["calibrate"])
    note(f"report: {results['report']}")


def _forget(folder: RunFolder, start: Stage) -> None:
    """Remove the receipts of a stage and of those after it: a stage without a receipt is not finished."""
    for stage in STAGES[STAGES.index(start) :]:
        (folder.stage(stage) / "made.json").unlink(missing_ok=True)
