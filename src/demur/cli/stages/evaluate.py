"""demur evaluate: answers to the test prompts, judged; every policy read off the same answers."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from demur.assembly.wiring import JUDGES
from demur.base.boundary import read_json
from demur.base.errors import DataError
from demur.cli import options
from demur.cli.evaluation import exit_if_contradicted, note_everyday, print_evaluation
from demur.cli.policies import run_with_policy
from demur.cli.terminal import TERMINAL, note, print_json, top_reasons

if TYPE_CHECKING:
    from demur.assembly.run import Workspace
    from demur.stages import evaluate


BranchesFlag = Annotated[
    Literal["reachable", "all"] | None,
    typer.Option(
        help="After which control tokens to write answers. Default: the config's.",
        show_default=False,
    ),
]
AlsoFlag = Annotated[
    list[str] | None,
    typer.Option(
        metavar="GOAL", help="Another goal to measure, instead of the config's. Repeatable."
    ),
]
LimitFlag = Annotated[
    int | None,
    typer.Option(
        min=1, help="Use so many test prompts only. Default: the config's.", show_default=False
    ),
]
LabelsFlag = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Hand labels of a random sample of the texts: corrects the judged rates.",
    ),
]
JudgeFlag = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="phrases, trained, llm, wildguard. Default: the config's.",
        show_default=False,
    ),
]


def command(
    run: options.Run,
    *,
    branches: BranchesFlag = None,
    also: AlsoFlag = None,
    limit: LimitFlag = None,
    labels: LabelsFlag = None,
    judge: JudgeFlag = None,
    settings: options.SettingsFile = None,
    policy: options.OfRun = None,
    as_json: options.AsJson = False,
) -> None:
    """Measure the policy on prompts that neither training nor calibration saw."""
    from demur.assembly.run import Workspace, reopen
    from demur.assembly.steps import Steps

    # Flags that were given take the place of the config's settings, for this run from now on.
    goals = tuple(also) if also else None
    texts = {"branches": branches, "limit": limit, "judge": judge, "judge_settings": settings}
    asked = {
        name: value
        for name, value in {**texts, "also": goals, "labels": labels}.items()
        if value is not None
    }
    workspace = reopen(run).with_settings("evaluate", **asked)
    workspace = Workspace(run_with_policy(workspace.folder, policy), workspace.config)
    # Without a flag an earlier evaluation is shown, whatever flags made it: see _earlier.
    evaluation = None if asked else _earlier(workspace)
    if evaluation is None:
        evaluation = Steps(workspace, TERMINAL).perform("evaluate")
    if as_json:
        print_json(read_json(workspace.folder.metrics))  # the file as it is, old keys and all
    else:
        print_evaluation(evaluation)
    calibrated = evaluation.policies[1]  # after the natural one
    # A judge that scores nothing is at fault (an endpoint that is down), and rates of no texts are
    # no result.
    if calibrated.unscored.hits == calibrated.unscored.of:
        raise DataError(
            f"none of {calibrated.unscored.of} texts was scored by {evaluation.judge}: "
            f"{top_reasons(calibrated.unscored_reasons)}",
            "the decisions are measured, the texts are not: mend that, and evaluate again",
        )
    if not as_json:
        note_everyday(workspace.folder)
        note(f"next: demur report {run}" + (f" --policy {policy}" if policy else ""))
    exit_if_contradicted(workspace.folder)


def _earlier(workspace: Workspace) -> evaluate.Evaluation | None:
    """The stored evaluation of the run as it is, if it was made with other settings than the
    config's; None if it was made with these, or if there is none.

    A call without flags asks to see what was measured: it must not replace a larger study by a
    smaller one.
    """
    from demur.assembly.run import RunEngine
    from demur.stages import evaluate

    config, folder = workspace.config.evaluate, workspace.folder
    found = evaluate.current_evaluation(folder, RunEngine(workspace).fingerprint)
    if found is None:
        return None
    evaluation, settings = found
    # settings as the receipt has them: a list for a tuple, a text for a path
    names = ("branches", "limit", "texts", "also", "labels", "max_new_tokens")
    asked = {**asdict(config), "also": list(config.also)}
    asked["labels"] = str(config.labels) if config.labels else None
    other = [
        f"{name} = {settings.get(name)}" for name in names if settings.get(name) != asked[name]
    ]
    # "llm/gpt-5/..." -> "llm"; judges that are no names of ours cannot be compared
    judge = evaluation.judge.partition("/")[0]
    if judge in JUDGES and config.judge in JUDGES and judge != config.judge:
        other.append(f"judge = {judge}")
    if not other:
        return None
    note(
        f"evaluated before with {', '.join(other)}: shown as it stands; give flags to measure anew"
    )
    return evaluation
