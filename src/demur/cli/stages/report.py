"""demur report: everything measured -> one HTML file and its Markdown twin."""

from __future__ import annotations

from demur.assembly.predictors import PREDICTORS
from demur.cli import options
from demur.cli.evaluation import leave_if_spoken_against
from demur.cli.policies import of_run
from demur.cli.show import TERMINAL, result_console


def command(run: options.Run, *, policy: options.OfRun = None) -> None:
    """Write <run>/report/index.html, which needs no network to be read."""
    from demur.assembly.run import Workspace, reopen
    from demur.assembly.steps import Steps

    workspace = reopen(run)
    workspace = Workspace(of_run(workspace.folder, policy), workspace.config)
    path = Steps(workspace, TERMINAL).perform("report")
    result_console().out(str(path), highlight=False)
    if workspace.config.engine not in PREDICTORS:
        leave_if_spoken_against(workspace.folder)
