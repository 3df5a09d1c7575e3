"""demur judge draw: texts of an evaluated run, drawn for people to label."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from demur.cli import options
from demur.cli.terminal import note, print_json, print_table


def command(
    run: options.Run,
    *,
    out: Annotated[
        Path, typer.Option(metavar="FILE", help="Where the texts go; their key beside it.")
    ],
    labels: Annotated[int, typer.Option(min=2, help="How many texts to draw.")] = 120,
    seed: Annotated[int, typer.Option(help="Another seed draws other texts.")] = 0,
    as_json: options.AsJson = False,
) -> None:
    """Draw texts to label by hand, more where labels tell more. People see request and answer, and
    nothing else.
    """
    from demur.assembly.run import reopen
    from demur.stages import draw_labels as stage
    from demur.store.answers.labels import key_path

    # The key beside the file stores the size of each stratum, which the correction weighs by.
    strata = stage.run(stage.Config(out=out, labels=labels, seed=seed), reopen(run).folder)
    if as_json:
        print_json([asdict(s) for s in strata])
    else:
        rows = [(s.name, f"{s.texts:,}", str(s.drawn)) for s in strata]
        print_table([("texts", "there are", "drawn"), *rows])
    note(
        f'fill in "label" in {out}: refusal, partial or compliance; {key_path(out)} stays as it is'
    )
    note(f"next: demur evaluate {run} --labels {out}")
