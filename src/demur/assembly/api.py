"""The Python interface: each stage as a function on a run; `import demur` has them. See
docs/python.md.

1. `run` makes a run folder from a config, or goes on with it; `open_run` opens one that is there.
2. `score`, `calibrate` and `evaluate` do one stage, or find it done, like the verbs of the command
   line.
3. `decide` is arithmetic on scores: no model is called for another threshold or policy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from demur.assembly.opened_run import Run, open_run
from demur.assembly.tables import DecisionTable, Scores
from demur.base.errors import ConfigError
from demur.core.decision import decide_many, on_doubt
from demur.core.goals.goal import Goal
from demur.core.policy import Policy
from demur.core.taxonomy import Taxonomy

if TYPE_CHECKING:
    from demur.assembly.run import Workspace
    from demur.assembly.steps import Observer
    from demur.core.example import Split
    from demur.store.results.metrics_file import Evaluation
    from demur.store.run import Stage

__all__ = [
    "Goal",
    "Policy",
    "Run",
    "Taxonomy",
    "calibrate",
    "decide",
    "evaluate",
    "open_run",
    "run",
    "score",
]


def run(
    config: str | Path | Mapping[str, Any],
    out: str | Path | None = None,
    *,
    data: str | Path | None = None,
    observer: Observer | None = None,
) -> Run:
    """Run all stages of a config, skipping finished ones. A predictor's run ends with calibrate.

    config: a TOML file, or its tables as a dict. out: the run folder; runs/ and the config's name
    by default. data: the folder of the config's sources of files. observer: receives notes and
    progress. Raises what the stages raise: DataError, EngineError, GoalInfeasible, ...
    """
    from demur.assembly.config import config_from, load_config
    from demur.assembly.run import new_workspace
    from demur.assembly.steps import Steps, stages_of

    folder = Path(data) if data is not None else None
    if isinstance(config, Mapping):
        loaded = config_from(config, "config", base=Path(), data_folder=folder)
    else:
        loaded = load_config(Path(config), data_folder=folder)
    workspace = new_workspace(loaded, Path(out) if out is not None else Path("runs") / loaded.name)
    steps = Steps(workspace, observer)
    steps.check(stages_of(loaded))
    for stage in stages_of(loaded):
        steps.perform(stage)
        if stage == "data":  # earlier, an error would leave a run folder without any rows
            workspace.write_config()
    return Run(workspace)


@overload
def score(run: Run | str | Path, *, observer: Observer | None = None) -> Mapping[Split, Scores]: ...
@overload
def score(
    run: Run | str | Path, prompts: Iterable[Any], *, policy: Policy | None = None
) -> Scores: ...
def score(
    run: Run | str | Path,
    prompts: Iterable[Any] | None = None,
    *,
    policy: Policy | None = None,
    observer: Observer | None = None,
) -> Mapping[Split, Scores] | Scores:
    """Score the run's held-out splits, or the given prompts.

    prompts: texts, or rows with a prompt or a conversation in any shape of docs/data.md; a
    DataFrame or a Dataset of such rows does as well. Ids are those of the rows, else their numbers.
    policy: score with the cascade of this policy, if it has one. Returns scores by split without
    prompts. Raises DataError, naming the row, for one without a prompt.
    """
    opened = _opened(run)
    if prompts is None:
        from demur.assembly.steps import Steps

        tables = Steps(opened.workspace, observer).perform("score")
        fingerprint, choices = opened.engine.fingerprint, opened.taxonomy.choices
        return {
            s: Scores(table=t, choices=choices, fingerprint=fingerprint) for s, t in tables.items()
        }
    from demur.assembly.prompts import prompts_of
    from demur.core.score import ScoreTable

    prompt_by_id = prompts_of(prompts)
    engine = opened.engine if policy is None else opened.engine.scorer_for(policy)
    logp_NC = engine.logp(list(prompt_by_id.values()))
    table = ScoreTable(ids=tuple(prompt_by_id), logp_NC=logp_NC)
    return Scores(table=table, choices=opened.taxonomy.choices, fingerprint=engine.fingerprint)


def calibrate(
    run: Run | str | Path,
    goal: str | Goal | Iterable[str | Goal] | None = None,
    *,
    name: str | None = None,
    observer: Observer | None = None,
    **settings: Any,
) -> Policy:
    """Choose thresholds that meet a goal, on the calibrate split; no model is called.

    goal: such as "false_refusal <= 0.02", or several; the config's by default. name: keep the
    policy under this name, beside the run's own. settings: other keys of [calibrate], such as
    confidence=0.9. Raises GoalInfeasible if no thresholds meet the goal, ConfigError on an unknown
    setting.
    """
    from demur.assembly.steps import Steps

    # goals are settings, so they are stored as text; None keeps the config's
    goals = [goal] if isinstance(goal, str | Goal) else list(goal or ())
    texts = "; ".join(g if isinstance(g, str) else g.text for g in goals) or None
    workspace = _changed(_opened(run), "calibrate", {"goal": texts, "name": name, **settings})
    policy: Policy = Steps(workspace, observer).perform("calibrate")
    return policy


def decide(policy: Policy, scores: Scores) -> DecisionTable:
    """Decide each prompt by its score, without calling a model.

    Raises ConfigError for scores of other choices than the policy's, and PolicyError for scores
    with another model's fingerprint.
    """
    if scores.choices != policy.taxonomy.choices:
        raise ConfigError(
            f"scores of {', '.join(scores.choices)} under a policy of "
            f"{', '.join(policy.taxonomy.choices)}",
            "score with the model that the policy was made for",
        )
    if scores.fingerprint is not None:
        policy.require_model(scores.fingerprint)
    found = decide_many(policy, scores.table.logp_NC)
    # (N,): in doubt under a policy that makes doubt an error, so neither answered nor refused
    undecided_N = found.doubt_N if on_doubt(policy) == "error" else np.zeros_like(found.doubt_N)
    # the choice as a word: column 0 is respond, then one column per category
    words = tuple(
        "undecided" if undecided else word
        for word, undecided in zip(found.words(scores.choices), undecided_N, strict=True)
    )
    return DecisionTable(policy=policy.name, ids=scores.table.ids, decision=words, decisions=found)


def evaluate(
    run: Run | str | Path, *, observer: Observer | None = None, **settings: Any
) -> Evaluation:
    """Answer and judge the test prompts under the run's policy, and under others for comparison.

    settings: keys of [evaluate], such as judge="phrases" or limit=200. Raises ConfigError on an
    unknown setting, and for a run whose engine writes no answers.
    """
    from demur.assembly.steps import Steps

    evaluation: Evaluation = Steps(_changed(_opened(run), "evaluate", settings), observer).perform(
        "evaluate"
    )
    return evaluation


def _opened(run: Run | str | Path) -> Run:
    return run if isinstance(run, Run) else open_run(run)


def _changed(run: Run, stage: Stage, settings: Mapping[str, Any]) -> Workspace:
    """Return the run with other settings of a stage. Raises ConfigError on an unknown one."""
    known = [f.name for f in fields(getattr(run.workspace.config, stage))]
    for name in settings:
        if name not in known:
            raise ConfigError(f"[{stage}] has no setting {name!r}", f"settings: {', '.join(known)}")
    return run.workspace.with_settings(stage, **settings)
