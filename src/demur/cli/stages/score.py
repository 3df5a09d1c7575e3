"""demur score: model and held-out prompts -> one row of scores a prompt, and one an answer."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from demur.assembly.config import with_overrides
from demur.base.errors import ConfigError
from demur.cli import options
from demur.cli.policies import open_policy, run_with_policy
from demur.cli.terminal import TERMINAL, note, print_table, progress_bar
from demur.core.score import ScoreTable
from demur.core.settings import AnswerSettings

if TYPE_CHECKING:
    from demur.assembly.run import Workspace


RewriteFlag = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        help=("Score each prompt said otherwise too: case, typos, punctuation, paraphrase, tense."),
    ),
]
AnswersFlag = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        help="Also write and follow an answer of at most N tokens to each, for a monitor.",
    ),
]
TemperatureFlag = Annotated[
    float | None,
    typer.Option(metavar="T", min=0.0, help="Of these answers, as in service; 0: greedy."),
]
PromptsFlag = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Score this file's prompts instead, by their ids, for --out."
    ),
]
OutFlag = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Where their scores go: a .parquet file.")
]
PolicyFlag = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="As this policy of the run has them scored: by its cascade."),
]


def command(
    run: options.Run,
    *,
    rewrite: RewriteFlag = None,
    answers: AnswersFlag = None,
    temperature: TemperatureFlag = None,
    prompts: PromptsFlag = None,
    out: OutFlag = None,
    policy: PolicyFlag = None,
) -> None:
    """Score each held-out prompt once; every threshold afterwards is arithmetic."""
    from demur.assembly.run import reopen
    from demur.assembly.steps import Steps

    workspace = reopen(run)
    if prompts is not None or out is not None or policy is not None:
        _score_file(workspace, prompts, out, policy)
        return
    if rewrite:
        # through the config's own parser, which knows the names of rewrites
        asked = with_overrides(workspace.config.score, [f"rewrites={json.dumps(rewrite)}"], "score")
        workspace = workspace.with_settings("score", rewrites=asked.rewrites)
    settings = _answers(workspace.config.score.answers, answers, temperature)
    workspace = workspace.with_settings("score", answers=settings)
    tables = Steps(workspace, TERMINAL).perform("score")
    rows = [
        (split, str(len(table.ids)), f"{float(table.leftover_N.mean()):.4f}")
        for split, table in tables.items()
    ]
    print_table([("split", "prompts", "leftover mass"), *rows])
    if settings is not None:
        _note_answers(workspace, settings)
    note(f"next: demur calibrate {run}")


def _answers(
    settings: AnswerSettings | None, tokens: int | None, temperature: float | None
) -> AnswerSettings | None:
    """The config's settings of answers, with those of the flags. Raises ConfigError on a
    temperature of no answers.
    """
    if settings is None and tokens is not None:
        settings = AnswerSettings(most_tokens=tokens)
    if settings is None:
        if temperature is not None:
            raise ConfigError("--temperature without answers", "add --answers 256")
        return None
    return replace(
        settings,
        most_tokens=settings.most_tokens if tokens is None else tokens,
        temperature=settings.temperature if temperature is None else temperature,
    )


def _note_answers(workspace: Workspace, settings: AnswerSettings) -> None:
    """Note how many answers were followed, and what they say about the model."""
    from demur.store.scores.answer_peaks import answers_path, read_answers

    rows = []
    for split in workspace.config.score.splits:
        found = [a.scored for a in read_answers(answers_path(workspace.folder, split)).answers]
        tokens = sum(a.tokens for a in found) / max(len(found), 1)
        ended = sum(a.finished for a in found)
        empty = sum(a.tokens == 0 for a in found)
        rows.append((split, str(len(found)), f"{tokens:.1f}", str(ended), str(empty)))
    header = ("split", "answers", "mean tokens", "ended by themselves", "without a token")
    print_table([header, *rows], title=f"followed: {settings.scoring.answers.text}")


def _score_file(
    workspace: Workspace, prompts: Path | None, out: Path | None, policy: str | None
) -> None:
    """Score the prompts of any file, by the run's model or by a policy's cascade. Raises
    ConfigError unless both files are named.
    """
    from demur.assembly.run import RunEngine
    from demur.store.prompts_file import facets_of, read_each_prompt
    from demur.store.scores.tables import Requests, write_scores

    if prompts is None or out is None:
        raise ConfigError(
            "--prompts and --out go together", "demur score RUN --prompts FILE --out scores.parquet"
        )
    own = RunEngine(workspace)
    engine = (
        own
        if policy is None
        else own.scorer_for(open_policy(run_with_policy(workspace.folder, policy).policy))
    )
    # repeated prompts stay: each id is to have its scores
    rows = read_each_prompt(prompts)
    with progress_bar("score") as progress:
        logp_NC = engine.logp([row.messages for row in rows], progress)
    table = ScoreTable(ids=tuple(row.id for row in rows), logp_NC=logp_NC)
    requests = Requests(
        sessions=tuple(row.unit for row in rows),
        counts=tuple(row.count for row in rows),
        traits=facets_of(rows),
    )
    write_scores(out, table, engine.fingerprint, requests=requests)
    print_table(
        [
            ("file", "prompts", "leftover mass"),
            (str(out), str(len(rows)), f"{table.leftover_N.mean():.4f}"),
        ]
    )
    note(
        f"next: demur decide --policy POLICY --scores {out}, or demur watch "
        f"{workspace.folder.root} --scores {out}"
    )
