"""demur decide: prompts or stored scores -> decisions under a policy. No answer is written."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from demur.base.arrays import Floats
from demur.base.errors import ConfigError
from demur.cli import options
from demur.cli.policies import (
    decision_json,
    doubt_note,
    open_policy,
    policy_with_overrides,
    stop_json,
    stop_words,
    stored_stops,
    unwatched,
)
from demur.cli.terminal import note, print_json, print_table
from demur.core.decision import decide
from demur.core.example import Message
from demur.core.fingerprint import Fingerprint
from demur.core.policy import Policy
from demur.core.ports import Prompt
from demur.core.rows.turns import check_text
from demur.store.run import RunFolder

SHOWN_CHARACTERS = 60


@dataclass(frozen=True, slots=True)
class _Scored:
    """Rows with their scores and the fingerprint of the model that gave them."""

    names: Sequence[dict[str, str]]  # N: what each row is called, by "id", "prompt" or both
    logp_NC: Floats
    fingerprint: Fingerprint


@dataclass(frozen=True, slots=True)
class _Asked:
    """A prompt, and what its row of the result is called."""

    name: dict[str, str]
    messages: Prompt


RunArgument = Annotated[
    Path | None,
    typer.Argument(metavar="RUN", help="Run folder; not needed with --policy and --scores."),
]
PromptsArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="PROMPT", help="What users say. Default: stdin, whole, as one prompt."),
]
PolicyFlag = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="A policy file, or the name of one of the run's. Default: its own."
    ),
]
ScoresFlag = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Decide the rows of a score file; loads no model."),
]
FileFlag = Annotated[
    Path | None,
    typer.Option(
        "--prompts", metavar="FILE", help="Rows with prompts, in any format of docs/data.md."
    ),
]


FirstFlag = Annotated[
    bool,
    typer.Option(
        "--first", help="Decide first positions alone, whatever the policy's monitor would stop."
    ),
]


def command(
    run: RunArgument = None,
    prompts: PromptsArgument = None,
    *,
    policy: PolicyFlag = None,
    scores: ScoresFlag = None,
    file: FileFlag = None,
    lines: Annotated[bool, typer.Option("--lines", help="Each line of stdin is a prompt.")] = False,
    threshold: options.Threshold = None,
    rate: options.Rate = None,
    first: FirstFlag = False,
    as_json: options.AsJson = False,
) -> None:
    """Decide each prompt. The same policy, scores and thresholds give the same decisions
    everywhere.
    """
    # The engine is loaded last: a flag at fault shows at once.
    chosen = policy_with_overrides(_policy(run, policy), threshold, rate)
    if sum(map(bool, (scores, prompts, file, lines))) > 1:
        raise ConfigError(
            "prompts come from several places",
            "give one of PROMPT, --prompts, --lines and --scores",
        )
    watched = chosen.monitor is not None and not first
    if watched and not scores:
        raise unwatched(chosen, "a prompt alone has no answer")
    scored = _stored(scores) if scores else _from_model(run, chosen, (prompts, file), lines=lines)
    # scores of another model mean something else at the same thresholds
    chosen.require_model(scored.fingerprint)
    decisions = [decide(chosen, logp_C) for logp_C in scored.logp_NC]
    rows = [
        {**name, **decision_json(chosen, logp_C, d)}
        for name, logp_C, d in zip(scored.names, scored.logp_NC, decisions, strict=True)
    ]
    if scores and watched:
        stops = stored_stops(chosen, scores, [name["prompt"] for name in scored.names]) or ()
        for row, decision, stop in zip(rows, decisions, stops, strict=True):
            row["stop"] = stop_json(chosen, decision, stop)
    if as_json:
        print_json(rows)
        return
    header = ("prompt", "decision", *(("stopped",) if watched else ()), *chosen.taxonomy.choices)
    cells = [_cells(r, chosen.taxonomy.choices) for r in rows]
    print_table([header, *cells], words=3 if watched else 2)
    if told := doubt_note(chosen, scored.logp_NC):
        note(told)


def _policy(run: Path | None, path: Path | None) -> Policy:
    """The policy of a run by name, of a file, or the run's own. Raises ConfigError if neither is
    named.
    """
    if path is None and run is None:
        raise ConfigError(
            "there is no policy to decide under",
            "give a run folder, or --policy FILE --scores FILE",
        )
    # --policy NAME of the run wins over a file of that name
    own = RunFolder(run or Path())
    if run is not None and str(path) in own.policy_names:
        return open_policy(own.named(str(path)).policy)
    return open_policy(path if path is not None else own.policy)


def _stored(path: Path) -> _Scored:
    """Read the rows of a score file; no model is loaded."""
    from demur.store.scores.tables import read_scores

    table, fingerprint = read_scores(path)
    return _Scored([{"prompt": name} for name in table.ids], table.logp_NC, fingerprint)


def _from_model(
    run: Path | None,
    policy: Policy,
    given: tuple[Sequence[str] | None, Path | None],
    *,
    lines: bool,
) -> _Scored:
    """Score prompts with the run's model, or with the policy's cascade. given: prompts as
    arguments, or a file of them.
    """
    from demur.assembly.run import RunEngine, reopen

    if run is None:
        raise ConfigError(
            "scoring a prompt needs a model", "give the run folder first, then the prompts"
        )
    asked = _asked(*given, lines=lines)
    engine = RunEngine(reopen(run)).scorer_for(policy)
    logp_NC = engine.logp([a.messages for a in asked])
    # a cascade: its front decided a part of the prompts
    if not isinstance(engine, RunEngine):
        note(f"the front decided {engine.by_front} of {engine.asked}, without the model")
    return _Scored([a.name for a in asked], logp_NC, engine.fingerprint)


def _asked(prompts: Sequence[str] | None, file: Path | None, *, lines: bool) -> list[_Asked]:
    """The prompts of the arguments, of a file, or of standard input: whole, or each line with
    `lines`.

    Raises ConfigError without a prompt, DataError on one that no request can hold.
    """
    from demur.store.prompts_file import read_each_prompt

    if file is not None:
        return [
            _Asked({"id": row.id, "prompt": row.messages[-1].content}, row.messages)
            for row in read_each_prompt(file)
        ]
    texts = list(prompts or ())
    if not texts:
        # a byte order mark, and line breaks at the end, are the terminal's and not the user's
        text = sys.stdin.read().removeprefix("\ufeff").rstrip("\r\n")
        texts = (
            [line.rstrip("\r") for line in text.split("\n") if line.strip()] if lines else [text]
        )
    if not all(text.strip() for text in texts) or not texts:
        raise ConfigError(
            "there is no prompt", "give prompts as arguments, one on stdin, or rows: --prompts FILE"
        )
    return [
        _Asked({"prompt": check_text(t, "prompt")}, (Message(role="user", content=t),))
        for t in texts
    ]


def _cells(row: dict[str, object], choices: Sequence[str]) -> tuple[str, ...]:
    """A row of the table: the prompt in short, the decision, and the probability of each choice."""
    # a prompt of several lines becomes one
    text, probability = " ".join(str(row["prompt"]).split()), row["probability"]
    assert isinstance(probability, dict)
    shown = text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 3]}..."
    decision = f"{row['decision']} (doubt)" if row["doubt"] else str(row["decision"])
    stopped = (stop_words(row["stop"]),) if "stop" in row else ()
    return (shown, decision, *stopped, *(f"{probability[c]:.4f}" for c in choices))
