"""demur decide: prompts or stored scores -> decisions under a policy. No answer is written."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from demur.cli import options
from demur.cli.policies import decision_json, opened, overridden
from demur.cli.show import print_json, print_table
from demur.cli.workspace import Engine, reopen
from demur.core.decision import decide
from demur.core.errors import ConfigError
from demur.core.example import Message
from demur.core.policy import Fingerprint, Policy
from demur.core.score import Floats
from demur.store.run import RunFolder
from demur.store.tables import read_scores

SHOWN_CHARACTERS = 60


@dataclass(frozen=True, slots=True)
class _Scored:
    names: Sequence[str]  # N ids or prompts
    logp_NC: Floats
    fingerprint: Fingerprint


def command(
    run: Annotated[
        Path | None, typer.Argument(metavar="RUN", help="Run folder; not needed with --policy and --scores.")
    ] = None,
    prompts: Annotated[
        list[str] | None, typer.Argument(metavar="PROMPT", help="What users say. Default: the lines of stdin.")
    ] = None,
    *,
    policy: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A policy file. Default: the run's calibrated policy.")
    ] = None,
    scores: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Decide the rows of a score file; loads no model.")
    ] = None,
    threshold: options.Threshold = None,
    rate: options.Rate = None,
    as_json: options.AsJson = False,
) -> None:
    """Decide each prompt. The same policy, scores and thresholds give the same decisions everywhere."""
    chosen = overridden(_policy(run, policy), threshold, rate)
    scored = _from_file(scores) if scores else _from_model(run, prompts)
    chosen.require_model(scored.fingerprint)
    decisions = [decide(chosen, logp_C) for logp_C in scored.logp_NC]
    rows = [
        {"prompt": name, **decision_json(chosen, logp_C, d)}
        for name, logp_C, d in zip(scored.names, scored.logp_NC, decisions, strict=True)
    ]
    if as_json:
        print_json(rows)
        return
    header = ("prompt", "decision", *chosen.taxonomy.choices)
    print_table([header, *(_cells(r, chosen.taxonomy.choices) for r in rows)], words=2)


def _policy(run: Path | None, path: Path | None) -> Policy:
    if path is None and run is None:
        raise ConfigError("there is no policy to decide under", "give a run folder, or --policy FILE --scores FILE")
    return opened(path if path is not None else RunFolder(run or Path()).policy)


def _from_file(path: Path) -> _Scored:
    table, fingerprint = read_scores(path)
    return _Scored(table.ids, table.logp_NC, fingerprint)


def _from_model(run: Path | None, prompts: Sequence[str] | None) -> _Scored:
    if run is None:
        raise ConfigError("scoring a prompt needs a model", "give the run folder first, then the prompts")
    texts = list(prompts or ()) or [line.rstrip("\n") for line in sys.stdin if line.strip()]
    if not texts:
        raise ConfigError("there is no prompt", "give prompts as arguments, or one per line on stdin")
    engine = Engine(reopen(run))
    logp_NC = engine.logp([(Message(role="user", content=text),) for text in texts])
    return _Scored(texts, logp_NC, engine.fingerprint)


def _cells(row: dict[str, object], choices: Sequence[str]) -> tuple[str, ...]:
    text, probability = str(row["prompt"]), row["probability"]
    assert isinstance(probability, dict)
    shown = text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 3]}..."
    return (shown, str(row["decision"]), *(f"{probability[c]:.4f}" for c in choices))
