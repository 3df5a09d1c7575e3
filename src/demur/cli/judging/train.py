"""demur judge train: labelled answers -> a judge."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from demur.assembly.judges import open_encoder
from demur.cli import options
from demur.cli.terminal import note, print_json, print_table


def command(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help='Rows of answers with "label".')
    ],
    *,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the judge goes.")] = Path(
        "judge.npz"
    ),
    recipe: Annotated[
        str, typer.Option(help="placed (ours), published (arXiv 2306.03423), or encoder.")
    ] = "placed",
    model: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Of recipe encoder: its checkpoint.", show_default=False),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Train a judge on labelled answers, by logistic regression. Measure it on others: demur judge
    check.
    """
    from demur.stages import judge_train as stage

    config = stage.Config(files=tuple(files), out=out, recipe=recipe, model=model)
    # named for the recipe "encoder" only; the others read n-grams
    encoder = open_encoder(model) if model else None
    trained = stage.run(config, encoder)
    if as_json:
        print_json(asdict(trained))
    else:
        rows = [
            ("answers", f"{trained.answers:,}"),
            ("that decline", f"{trained.declining:,}"),
            ("left out, no label or no answer", f"{trained.left_out:,}"),
            ("words of an answer it will judge", f"{trained.words[0]} to {trained.words[1]}"),
        ]
        print_table([("trained on", ""), *rows])
    note(f"next: demur judge check FILE --judge trained --set trained.model={out}")
