"""Makes every attempt and prints the table of docs/security.md: python -m tests.security.table."""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.security.attacks import every
from tests.security.attempt import CANARY
from tests.security.faults import faults
from tests.security.faulty import FRONTS, front
from tests.security.gate import (
    MARK,
    HashScorer,
    MarkScorer,
    gate_attempts,
    gate_site,
    unseen,
    what_was_sent,
)
from tests.security.hidden import hidden, unspelled
from tests.security.judge import verdict
from tests.security.raw_connections import SCENES
from tests.security.site import logged_secrets, site
from tests.security.trials import trials

Achieved = tuple[str, str, str]  # kind, name of the attempt, what it achieved
AT_THE_GATE = "the kinds above, at the gate"
HIDDEN = hidden(MARK)[0].kind
FAULTS = "upstream faults"


def rows(achieved: dict[tuple[str, str], str]) -> list[str]:
    """The table's lines: attempts and how many succeeded, by kind."""
    made = Counter(a.kind for a in (*every(), *SCENES, *trials()))
    made[AT_THE_GATE] = len(gate_attempts())
    made[HIDDEN] = len(hidden(MARK)) + len(unspelled())
    made[FAULTS] = len(faults()) * len(FRONTS)
    won = Counter(kind for kind, _ in achieved)
    lines = [f"| {kind} | {number} | {won[kind]} |" for kind, number in made.items()]
    return [
        "| what is tried | attempts | succeeded |",
        "|---|---|---|",
        *lines,
        f"| all | {made.total()} | {won.total()} |",
    ]


def at_the_server(root: Path) -> Iterator[Achieved]:
    """What attempts on the server with its model in process achieved, and what of them was
    logged.
    """
    with site(root) as attacked:
        for attempt in every():
            if what := verdict(attacked, attempt):
                yield attempt.kind, attempt.name, what
        for scene in SCENES:
            if what := scene.run(attacked):
                yield scene.kind, scene.name, what
        yield from (
            ("log", str(n), line) for n, line in enumerate(logged_secrets(attacked.log, CANARY))
        )


def on_files(root: Path) -> Iterator[Achieved]:
    """What attempts on files, pages and keys achieved."""
    for n, trial in enumerate(trials()):
        folder = root / str(n)
        folder.mkdir(parents=True)
        if what := trial.run(folder):
            yield trial.kind, trial.name, what


def at_the_gate(root: Path) -> Iterator[Achieved]:
    """What attempts on the pre-answer gate achieved."""
    with gate_site(root / "hash", HashScorer()) as gate:
        for attempt in gate_attempts():
            if what := verdict(gate, attempt, what_was_sent):
                yield AT_THE_GATE, attempt.name, what
    with gate_site(root / "mark", MarkScorer()) as marked:
        for attempt in (*hidden(MARK), *unspelled()):
            if what := unseen(marked, attempt):
                yield attempt.kind, attempt.name, what


def behind_it(root: Path) -> Iterator[Achieved]:
    """What a server behind achieved by misbehaving, at gate and gateways."""
    for n, name in enumerate(FRONTS):
        folder = root / str(n)
        folder.mkdir(parents=True)
        with front(name, folder) as faulty:
            for fault in faulty.names:
                if what := faulty.verdict(fault):
                    yield FAULTS, f"{name}: {fault}", what


def main() -> None:
    """Exit code 1 if any attempt succeeds, or is in the log."""
    achieved = {}
    with tempfile.TemporaryDirectory() as name:
        for part in (at_the_server, on_files, at_the_gate, behind_it):
            root = Path(name) / part.__name__
            root.mkdir()
            achieved |= {(kind, attempt): what for kind, attempt, what in part(root)}
    print("\n".join(rows(achieved)))  # noqa: T201 - this is what it is for
    for (kind, attempt), what in achieved.items():
        print(f"{kind}: {attempt}: {what}", file=sys.stderr)  # noqa: T201
    sys.exit(bool(achieved))


if __name__ == "__main__":
    main()
