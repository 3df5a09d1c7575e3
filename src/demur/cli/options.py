"""Arguments and flags that several verbs share.

A flag has one name, one type and one help line wherever it occurs. Flags of a single verb are
declared in its module, above its `command`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Run = Annotated[
    Path, typer.Argument(metavar="RUN", help="Run folder, made by `demur run` or `demur data`.")
]
ConfigPath = Annotated[
    Path, typer.Argument(metavar="CONFIG", help="TOML file that describes the run.")
]
DataFolder = Annotated[
    Path | None,
    typer.Option(
        "--data", metavar="DIR", help="Folder of the config's sources of files.", show_default=False
    ),
]
Out = Annotated[
    Path | None,
    typer.Option("--out", metavar="DIR", help="Run folder. Default: runs/ and the config's name."),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Override a setting, e.g. train.epochs=1. Repeatable."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of a table.")]
# Both say what a request may say to the server; a threshold wins over a rate.
Threshold = Annotated[
    list[str] | None,
    typer.Option(
        "--threshold", metavar="CATEGORY=T", help="Refuse from this probability on. Repeatable."
    ),
]
Rate = Annotated[
    list[str] | None,
    typer.Option(
        "--rate", metavar="CATEGORY=R", help="Refuse at most this share of traffic. Repeatable."
    ),
]
# a policy of the run by its name; verbs that take files too declare a --policy of their own
OfRun = Annotated[
    str | None,
    typer.Option(
        "--policy",
        metavar="NAME",
        help="One that `calibrate --name` keeps. Default: the run's own.",
    ),
]
Answers = Annotated[
    Path, typer.Argument(metavar="FILE", help="Rows: id, request, answer, and category if known.")
]
SettingsFile = Annotated[
    Path | None,
    typer.Option("--settings", metavar="FILE", help="TOML with [llm], [trained], [wildguard]."),
]
Category = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="What answers without a category are held to.", show_default=False
    ),
]
