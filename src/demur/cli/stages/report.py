"""demur report: everything measured -> one HTML file and its Markdown twin."""

from __future__ import annotations

from demur.assembly.predictors import PREDICTORS
from demur.cli import options
from demur.cli.evaluation import exit_if_contradicted
from demur.cli.policies import run_with_policy
from demur.cli.terminal import TERMINAL, result_console


def command(run: options.Run, *, policy: options.OfRun = None) -> None:
    """Write <run>/report/index.html, which needs no network to be read."""
    from demur.assembly.run import Workspace, reopen
    from demur.assembly.steps import Steps

    workspace = reopen(run)
    workspace = Workspace(run_with_policy(workspace.folder, policy), workspace.config)
    path = Steps(workspace, TERMINAL).perform("report")
    result_console().out(str(path), highlight=False)
    # A run without answers has no test rows that could contradict a promise.
    if workspace.config.engine not in PREDICTORS:
        exit_if_contradicted(workspace.folder)
