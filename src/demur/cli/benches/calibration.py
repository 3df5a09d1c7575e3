"""demur bench calibration: a folder of scored runs -> which calibrator helps, and which measurement
tells.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from demur.base.errors import ArtifactError, ConfigError
from demur.cli import options
from demur.cli.terminal import note, print_json, print_table, progress_bar
from demur.core.settings import Parted
from demur.core.taxonomy import PRESETS, Taxonomy
from demur.store.run import RunFolder

if TYPE_CHECKING:
    from demur.stages.bench_calibration import ScoredModel

_TEST = "-test.parquet"


def command(
    folder: Annotated[
        Path,
        typer.Argument(metavar="FOLDER", help="Where to look for scored runs, or score files."),
    ],
    *,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where to write study.*. Default: FOLDER/study."),
    ] = None,
    calibrator: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Compare this one. Repeatable. Default: as for 'auto'."),
    ] = None,
    by: Annotated[
        Parted, typer.Option(help="What parts the test rows, to see if calibration carries over.")
    ] = "category",
    as_json: options.AsJson = False,
) -> None:
    """Fit every calibrator on every run, measure it on test prompts, rank, and answer six
    questions.
    """
    from demur.stages import bench_calibration
    from demur.stages.bench_calibration import Config
    from demur.stages.bench_calibration.content import mean_errors, ranking_words, sentence

    config = Config(by=by, **({"calibrators": tuple(calibrator)} if calibrator else {}))
    target = out or folder / "study"
    with progress_bar("fitting") as progress:
        study = bench_calibration.run(config, list(_scored(folder)), target, progress)
    if as_json:
        print_json(study.model_dump(mode="json"))
        return
    # the terminal shows the first measurement; the page has the others
    ranking = study.rankings[0]
    rows = [
        (s.calibrator, str(s.place), f"{s.mean_rank:.2f}", str(s.best_in))
        for s in ranking.standings
    ]
    if rows:
        header = ("calibrator", "place", "mean rank", "none better, in kinds")
        print_table([header, *rows], title=f"by {ranking.measurement}")
    else:
        print_table(
            [("calibrator", "mean over the runs"), *mean_errors(study)], title=ranking.measurement
        )
    note(ranking_words(ranking))
    for answer in study.answers:
        note(sentence(answer))
    note(f"study: {target / 'study.html'}")


def _scored(folder: Path) -> Iterator[ScoredModel]:
    """Find the scored runs, and the pairs of score files, at or below a folder, by name. Raises
    ArtifactError without any.
    """
    from demur.assembly.run import reopen
    from demur.stages.bench_calibration import ScoredModel, ScoreFiles

    # A run, or NAME-test.parquet with NAME-calibrate.parquet beside it, as other programs write
    # them.
    roots = sorted(
        p.parent for p in folder.rglob("config.json") if RunFolder(p.parent).scores("test").exists()
    )
    pairs = sorted(
        p
        for p in folder.rglob(f"*{_TEST}")
        if p.with_name(_stem(p) + "-calibrate.parquet").exists()
    )
    if not roots and not pairs:
        raise ArtifactError(
            f"{folder} has no scored run: no folder in it with config.json and score/test.parquet, "
            "and no NAME-calibrate.parquet beside NAME-test.parquet",
            "name a folder of runs, such as runs/; score them with: demur score RUN",
        )
    for root in roots:
        try:
            workspace = reopen(root)
        # a broken run stops the study: a silent gap would change the ranking
        except ConfigError as e:
            raise ConfigError(f"{root}: {e.message}", e.hint) from None
        # the folder itself may be the run: "." would be no name
        name = str(root.relative_to(folder)) if root != folder else root.resolve().name
        yield ScoredModel(name=name, folder=workspace.folder, taxonomy=workspace.config.taxonomy)
    for path in pairs:
        name = str(path.relative_to(folder)).removesuffix(_TEST)
        yield ScoredModel(
            name=name,
            folder=ScoreFiles(root=path.parent, name=_stem(path)),
            taxonomy=_taxonomy(path),
        )


def _stem(path: Path) -> str:
    return path.name.removesuffix(_TEST)


def _taxonomy(path: Path) -> Taxonomy:
    """The built-in taxonomy whose tokens a file of scores has. Raises ArtifactError if there is
    none.
    """
    from demur.store.scores.tables import read_scores

    # A score file names its tokens and not their categories.
    tokens = read_scores(path)[1].tokens
    found = next((t for make in PRESETS.values() if (t := make()).tokens == tokens), None)
    if found is None:
        raise ArtifactError(
            f"{path} has the tokens {', '.join(tokens)}, which are of no built-in taxonomy",
            "study the run instead: it holds its taxonomy",
        )
    return found
