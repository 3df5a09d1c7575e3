"""All stages of a run in turn, for `demur run` and `demur demo`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from demur.assembly.config import RunConfig
from demur.cli.evaluation import exit_if_contradicted, note_everyday, print_evaluation
from demur.cli.policy_text import note_policy
from demur.cli.terminal import TERMINAL, note
from demur.store.run import STAGES, RunFolder, Stage

if TYPE_CHECKING:
    from demur.assembly.run import Workspace
    from demur.assembly.steps import Steps


def default_folder(config: RunConfig) -> Path:
    """The run folder without --out: runs/ and the name of the config."""
    return Path("runs") / config.name


def run_all(workspace: Workspace, start: Stage | None = None) -> None:
    """Perform every stage in turn, and print the measured table and the report's path.

    start: do this stage and the later ones again. A run whose engine writes no answers has none to
    measure: it ends with its policy.
    """
    from demur.assembly.steps import Steps, stages_of

    steps, stages = Steps(workspace, TERMINAL, again=start == "data"), stages_of(workspace.config)
    # A wrong setting of a late stage must not show only after hours of training.
    steps.check(stages)
    results = {stage: _performed(steps, stage, workspace, start) for stage in stages}
    if "evaluate" not in results:
        note_policy(results["calibrate"])
        note(f"left out: evaluate and report; engine {workspace.config.engine!r} writes no answers")
        note(f"next: demur serve {workspace.folder.root} --url URL")
        return
    print_evaluation(results["evaluate"])
    note_policy(results["calibrate"])
    note_everyday(workspace.folder)
    note(f"report: {results['report']}")
    exit_if_contradicted(workspace.folder)


def _performed(steps: Steps, stage: Stage, workspace: Workspace, start: Stage | None) -> Any:
    """Perform one stage and return its result, anew if it is `start` or comes after it."""
    anew = start is not None and STAGES.index(stage) >= STAGES.index(start)
    with _set_aside(workspace.folder, stage) if anew else nullcontext():
        result = steps.perform(stage)
    if stage == "data":
        workspace.write_config()
    return result


@contextmanager
def _set_aside(folder: RunFolder, stage: Stage) -> Iterator[None]:
    """Let a stage count as unfinished within the block; put its receipt back if it fails there."""
    # A stage without a receipt is done again. If it succeeds, it has written a new one.
    receipt = folder.stage(stage) / "made.json"
    aside = receipt.with_name("made.before.json")
    if receipt.exists():
        receipt.replace(aside)
    try:
        yield
    finally:
        if aside.exists() and not receipt.exists():
            aside.replace(receipt)
        aside.unlink(missing_ok=True)
