"""demur distil: unlabelled traffic -> a cheap front model, taught by the run's model."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from demur.base.errors import ConfigError
from demur.base.files import sweep
from demur.cli import options
from demur.cli.policies import open_policy, run_with_policy
from demur.cli.terminal import note, print_json, print_table, progress_bar
from demur.core.policy import Policy, natural
from demur.core.score import ScoreTable
from demur.core.settings import FRONT_BOUND
from demur.store.models.front_file import FrontMetrics

if TYPE_CHECKING:
    from demur.assembly.run import RunEngine, Workspace
    from demur.store.prompts_file import Prompts


TrafficFlag = Annotated[
    Path,
    typer.Option(metavar="FILE", help="Unlabelled requests: rows in any format of docs/data.md."),
]
ScoresFlag = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="The model's scores of them: demur score RUN --prompts FILE --out FILE.",
    ),
]
BoundFlag = Annotated[
    float,
    typer.Option(help="On how often the model decides otherwise where the front is sure."),
]
PolicyFlag = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Agree with this policy of the run. Default: its own, else the natural one.",
    ),
]


def command(
    run: options.Run,
    *,
    traffic: TrafficFlag,
    scores: ScoresFlag = None,
    bound: BoundFlag = FRONT_BOUND,
    policy: PolicyFlag = None,
    as_json: options.AsJson = False,
) -> None:
    """Fit a front model that decides easy requests; the run's model decides the rest."""
    from demur.assembly.run import RunEngine, reopen
    from demur.stages import distil
    from demur.store.prompts_file import read_prompts

    workspace = reopen(run)
    config = distil.Config(bound=bound)
    # temporaries of a distil that was killed
    sweep(workspace.folder.root)
    asked = read_prompts([traffic])
    engine = RunEngine(workspace)
    chosen = _policy(workspace, engine, policy)
    table, model_ms = _stored(scores, asked, engine) if scores else _scored(asked, engine)
    # The front learns to agree with the policy's decisions on the model's scores: no labels.
    seen = distil.Traffic(
        file=traffic, prompts=asked, scores=table, model=engine.fingerprint, model_ms=model_ms
    )
    made = distil.run(config, seen, chosen, workspace.folder)
    if as_json:
        print_json(made.model_dump(mode="json"))
        return
    _print_metrics(asked, made)
    note(f"next: demur calibrate {run} --name cascade --set cascade=true")


def _policy(workspace: Workspace, engine: RunEngine, name: str | None) -> Policy:
    """The policy that the front is to agree with. Raises ConfigError on a cascade's own."""
    folder = run_with_policy(workspace.folder, name)
    if name is None and folder.receipt("calibrate") is None:
        return natural(workspace.config.taxonomy, engine.fingerprint)
    policy = open_policy(folder.policy)
    # its decisions are an earlier front's in part: errors would be learnt from errors
    if policy.fingerprint is not None and policy.fingerprint.front is not None:
        raise ConfigError(
            f"policy {policy.name!r} is of a cascade itself",
            "name one of the model alone: --policy NAME",
        )
    return policy


def _scored(asked: Prompts, engine: RunEngine) -> tuple[ScoreTable, float]:
    """Score all traffic with the run's model: scores, and CPU milliseconds for a prompt."""
    assert engine.loaded is not None  # loads it, before the clock starts
    start = time.process_time()
    with progress_bar("score") as progress:
        logp_NC = engine.logp([row.messages for row in asked.rows], progress)
    spent = 1000.0 * (time.process_time() - start) / len(asked.rows)
    return ScoreTable(ids=tuple(row.id for row in asked.rows), logp_NC=logp_NC), spent


def _stored(path: Path, asked: Prompts, engine: RunEngine) -> tuple[ScoreTable, None]:
    """Read scores from a file. Raises ConfigError unless they are this model's, ScoreError where a
    prompt has none.
    """
    from demur.store.scores.tables import read_scores

    table, model = read_scores(path)
    if differing := model.differences(engine.fingerprint):
        raise ConfigError(
            f"{path} holds scores of another model: {', '.join(differing)} differ",
            "score with this run's model",
        )
    # None: the model's time was not measured, so that no saving is claimed
    return table.select(tuple(row.id for row in asked.rows)), None


def _print_metrics(asked: Prompts, made: FrontMetrics) -> None:
    """Print what the front decides of the held-out traffic, and what a decision costs."""
    if asked.without:
        note(f"left out: {len(asked.without)} rows hold no prompt")
    for reason, count in made.left_out.items():
        if count:
            note(f"left out: {count} rows {reason}")
    rows = [
        ("decided by", "held-out requests", "model decides otherwise"),
        ("front: answered", f"{made.answered.of} of {made.held}", str(made.answered.hits)),
        ("front: refused", f"{made.refused.of} of {made.held}", str(made.refused.hits)),
        ("model", f"{made.held - made.decided} of {made.held}", "-"),
    ]
    print_table(rows, title=f"a front fitted on {made.fitted} requests, sure up to {made.bound:g}")
    # too many unknown words or letters: handed over before any score is looked at
    note(
        f"{made.held - made.inside} of {made.held} held-out requests are outside the front's range"
    )
    if made.decided == 0:
        note("the front is sure of nothing: give more traffic, or a larger --bound")
    note(f"CPU time of a decision: {made.cost}")
