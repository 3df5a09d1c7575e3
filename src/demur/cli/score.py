"""demur score: model and held-out prompts -> one row of scores a prompt."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from demur.cli import options
from demur.cli.show import note, print_table
from demur.cli.steps import Steps
from demur.cli.workspace import reopen
from demur.config import changed


def command(
    run: options.Run,
    *,
    rewrite: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Score each prompt said otherwise too: case, typos, punctuation, paraphrase, tense."
        ),
    ] = None,
) -> None:
    """Score each held-out prompt once; every threshold afterwards is arithmetic."""
    workspace = reopen(run)
    if rewrite:
        asked = changed(workspace.config.score, [f"rewrites={json.dumps(rewrite)}"], "score")
        workspace = workspace.changed("score", rewrites=asked.rewrites)
    tables = Steps(workspace).perform("score")
    rows = [(split, str(len(table.ids)), f"{float(table.leftover_N.mean()):.4f}") for split, table in tables.items()]
    print_table([("split", "prompts", "leftover mass"), *rows])
    note(f"next: demur calibrate {run}")
