"""demur bench-calibration: a folder of scored runs -> which calibrator helps, and which measurement tells."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from demur.cli import options
from demur.cli.show import bar, note, print_json, print_table
from demur.cli.workspace import reopen
from demur.core.errors import ArtifactError, ConfigError
from demur.stages import bench_calibration
from demur.stages.bench_calibration import Config, Scored
from demur.stages.bench_calibration.content import sentence
from demur.stages.bench_calibration.summary import By
from demur.store.run import RunFolder


def command(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to look for runs that were scored.")],
    *,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where to write study.*. Default: FOLDER/study.")
    ] = None,
    calibrator: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Compare this one. Repeatable. Default: as for 'auto'.")
    ] = None,
    by: Annotated[By, typer.Option(help="What parts the test rows, to see if calibration carries over.")] = "category",
    as_json: options.AsJson = False,
) -> None:
    """Fit every calibrator on every run, measure it on test prompts, rank, and answer six questions."""
    config = Config(by=by, **({"calibrators": tuple(calibrator)} if calibrator else {}))
    target = out or folder / "study"
    with bar("fitting") as progress:
        study = bench_calibration.run(config, list(_scored(folder)), target, progress)
    if as_json:
        print_json(study.model_dump(mode="json"))
        return
    ranking = study.rankings[0]
    rows = [(s.calibrator, str(s.place), f"{s.mean_rank:.2f}", str(s.best_in)) for s in ranking.standings]
    print_table(
        [("calibrator", "place", "mean rank", "none better, in runs"), *rows], title=f"by {ranking.measurement}"
    )
    for answer in study.answers:
        note(sentence(answer))
    note(f"study: {target / 'study.html'}")


def _scored(folder: Path) -> Iterator[Scored]:
    """The runs at or below a folder, by name. Raises ArtifactError if there is no folder or no scored run in it."""
    roots = sorted(p.parent for p in folder.rglob("config.json") if RunFolder(p.parent).scores("test").exists())
    if not roots:
        raise ArtifactError(
            f"{folder} has no scored run: no folder in it with config.json and score/test.parquet",
            "name a folder of runs, such as runs/; score them with: demur score RUN",
        )
    for root in roots:
        try:
            workspace = reopen(root)
        except ConfigError as e:
            raise ConfigError(f"{root}: {e.message}", e.hint) from None
        name = str(root.relative_to(folder)) if root != folder else root.resolve().name
        yield Scored(name=name, folder=workspace.folder, taxonomy=workspace.config.taxonomy)
