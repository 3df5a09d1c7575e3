"""demur init: a folder of rows -> a TOML that `demur data` runs, and what was not understood."""

from __future__ import annotations

import os
import tempfile
import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer

from demur.assembly.config import build_sources, config_from
from demur.assembly.wiring import SOURCES, import_by_name
from demur.base.errors import DataError, DemurError
from demur.base.files import write_text
from demur.cli import options
from demur.cli.terminal import first_places, note, print_json, print_table
from demur.store.run import RunFolder

FILE = "demur.toml"


def command(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Holds files of rows, in any format.")
    ],
    *,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE",
            help="Default: FOLDER/demur.toml. Never overwritten.",
            show_default=False,
        ),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Look at a folder, guess formats, columns, labels and taxonomy, and write the TOML of a
    run.
    """
    to = out or folder / FILE
    if to.exists():
        raise DataError(
            f"{to} is there already", "nothing was written: edit it, or name another file: --out"
        )
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder", "name the folder that holds the files of rows")
    guesses = _guesses(folder)
    usable = [guess for guess in guesses if not guess.fault]
    if as_json:
        print_json([_json(guess) for guess in guesses])
    else:
        print_table(
            [("file", "rows", "shape", "to refuse", "to answer", "skipped"), *map(_cells, guesses)],
            words=1,
        )
    for guess in guesses:
        for said in (*guess.notes, *([f"left out: {guess.fault}"] if guess.fault else [])):
            note(f"{guess.name}: {said}")
    if not usable:
        raise DataError(
            f"{folder} has no file of rows that can be used",
            "docs/data.md shows what a row may look like",
        )
    # The draft is tried before it is written: a TOML that `demur data` refuses helps nobody.
    text = _draft(folder, to, usable)
    _try_draft(text, to, shown=not as_json)
    write_text(to, text)
    note(f"written: {to}; read it, then: demur data {to}")


def _guesses(folder: Path) -> list[Any]:
    """Guess format, columns and labels of each file below a folder. Files of runs are left out."""
    from demur.assembly.sources import guess_file
    from demur.base.rows import SUFFIXES, rows_below

    names = [p.relative_to(folder) for p in rows_below(folder)]
    # files with a config.json in any folder above them, up to the folder itself
    runs = [
        n
        for n in names
        if any((folder / p / "config.json").is_file() for p in n.parents if p != Path())
    ]
    if runs:
        note(f"left out: {len(runs)} files of runs or models, such as {runs[0]}")
    # files that are neither rows by their suffix nor inside of a folder that counts as rows
    others = [
        path.relative_to(folder).as_posix()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and not any(
            n == path.relative_to(folder) or n in path.relative_to(folder).parents for n in names
        )
    ]
    if others:
        note(
            f"not looked at, by their names: {first_places(others)}; read are {', '.join(SUFFIXES)}"
        )
    return [guess_file(folder, name.as_posix()) for name in names if name not in runs]


def _draft(folder: Path, to: Path, guesses: list[Any]) -> str:
    """The TOML text of a run from what was guessed of its files."""
    from demur.assembly.sources import ConfigDraft

    # Paths in a TOML are relative to it, so that folder and TOML can move together.
    where = Path(os.path.relpath(folder.resolve(), to.resolve().parent)).as_posix()
    text: str = ConfigDraft(name=folder.resolve().name, folder=where, guesses=tuple(guesses)).toml()
    return text


def _try_draft(text: str, to: Path, *, shown: bool) -> None:
    """Run the data stage on a draft, in a folder that is thrown away. Raises DataError, after
    printing the draft, if the stage fails.
    """
    from demur.stages import data

    try:
        config = config_from(tomllib.loads(text), str(to), base=to.resolve().parent)
        sources = build_sources(config, lambda kind: import_by_name(kind, SOURCES, "source"))
        with tempfile.TemporaryDirectory() as scratch:
            summary = data.run(config.data, config.taxonomy, sources, RunFolder(Path(scratch)))
    except DemurError as e:
        note(text)
        raise DataError(
            f"these rows make no run yet: {e.message}",
            f"nothing was written, the draft stands above; {e.hint}",
        ) from None
    for warning in summary.warnings:
        note(f"warning: {warning}")
    if shown:
        print_table(data.table(summary), title="rows, as demur data will split them")


def _cells(guess: Any) -> tuple[str, ...]:
    """A row of the table: a file, its shape, and how many rows are to be refused and answered."""
    # counts are by kind and category
    refuse = sum(n for (kind, _), n in guess.counts.items() if kind == "refusal")
    answer = sum(n for (kind, _), n in guess.counts.items() if kind != "refusal")
    return (
        guess.name,
        str(guess.rows),
        guess.shape or "-",
        str(refuse),
        str(answer),
        str(guess.skipped),
    )


def _json(guess: Any) -> dict[str, object]:
    """The guesses about one file for programs."""
    counts = [
        {"kind": kind, "category": category, "rows": n}
        for (kind, category), n in guess.counts.items()
    ]
    plain = {name: getattr(guess, name) for name in ("rows", "shape", "skipped", "notes", "fault")}
    rule = {
        name: getattr(guess.rule, name)
        for name in ("rows_kind", "category", "label_map", "columns")
    }
    return {"file": guess.name, **plain, **rule, "counts": counts}
