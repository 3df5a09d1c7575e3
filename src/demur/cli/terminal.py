"""Output on the terminal. Results go to stdout; progress, notes and errors to stderr."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from demur.base.text import duration
from demur.core import ports

NAMED = 3  # reasons, or places, that one line names
PIPE_WIDTH = 140  # columns of a table that no terminal bounds
SECONDS_PER_LINE = 15.0  # between two lines of progress where there is no terminal


def is_first_process() -> bool:
    """Whether this is the only process, or the first of a training on several."""
    # torchrun and accelerate number their processes so
    return os.environ.get("RANK", "0") == "0"


def result_console() -> Console:
    """The console of results: stdout, wide when it is not a terminal."""
    console = Console(highlight=False, markup=False)  # control tokens look like markup
    return (
        console if console.is_terminal else Console(highlight=False, markup=False, width=PIPE_WIDTH)
    )


def note(text: str) -> None:
    """One line on stderr, from the first process only."""
    if is_first_process():
        Console(stderr=True, highlight=False).print(text, soft_wrap=True, markup=False)


def notes(lines: Iterable[str]) -> None:
    """Each line as a note."""
    for line in lines:
        note(line)


def top_reasons(reasons: Mapping[str, int]) -> str:
    """The most frequent reasons with their counts, in one line."""
    most = sorted(reasons.items(), key=lambda pair: -pair[1])
    return "; ".join(f"{n} x {why}" for why, n in most[:NAMED]) + (
        "; ..." if len(most) > NAMED else ""
    )


def first_places(places: Sequence[str]) -> str:
    """The first of some places, in one line."""
    return ", ".join(places[:NAMED]) + (", ..." if len(places) > NAMED else "")


def print_json(value: object) -> None:
    """Print a value as JSON on stdout, for programs."""
    result_console().out(
        json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False), highlight=False
    )


def print_table(rows: Sequence[Sequence[str]], *, title: str | None = None, words: int = 1) -> None:
    """Print rows of text as a table on stdout; the first row is the header. The first `words`
    columns hold words (to the left), the others numbers (to the right).
    """
    header, *body = rows
    table = Table(title=title, title_justify="left")
    for n, name in enumerate(header):
        table.add_column(name, justify="left" if n < words else "right")
    for row in body:
        table.add_row(*row)
    result_console().print(table)


@contextmanager
def progress_bar(label: str, doing: str = "") -> Iterator[ports.Progress]:
    """Show progress within the block, through the callback that it yields: one live line with
    elapsed and remaining time on a terminal, else a line now and then.

    doing: stands beside the label on a terminal; elsewhere in a line of its own, once. A changed
    total starts the count anew.
    """
    if not is_first_process():
        yield ports.no_progress
        return
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield _lines(label, doing)
        return
    columns: tuple[Any, ...] = (
        TextColumn("{task.description:<10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("elapsed,"),
        TimeRemainingColumn(),
        TextColumn("left"),
        TextColumn("{task.fields[doing]}", style="dim"),
    )
    with Progress(*columns, console=console, transient=True) as live:
        task = live.add_task(label, total=None, doing=doing)
        yield lambda done, total: live.update(task, completed=done, total=total)


class Terminal:
    """The terminal as the observer of a run's stages: see demur.assembly.steps.Observer."""

    note = staticmethod(note)
    bar = staticmethod(progress_bar)


TERMINAL = Terminal()


def _lines(label: str, doing: str) -> ports.Progress:
    """The progress callback where there is no terminal: a line every SECONDS_PER_LINE."""
    # Time counts from when the first unit was done: loading a model says nothing of the rest.
    started: tuple[float, int] | None = None
    told, of = time.monotonic(), 0

    def tell(done: int, total: int) -> None:
        nonlocal started, told, of
        now = time.monotonic()
        if started is None and doing:
            note(f"{label:<10} {doing}")
        if started is None or total != of:  # other units from here on
            started, of = (now, done), total
        # Remaining time is at the pace so far; without a finished unit there is none yet.
        spent, units = now - started[0], done - started[1]
        if now - told < SECONDS_PER_LINE or not units:
            return
        told = now
        left = spent / units * (total - done)
        note(f"{label:<10} {done} of {total}, {duration(spent)} elapsed, {duration(left)} left")

    return tell
