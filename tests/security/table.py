"""Makes every attempt and prints the table of docs/security.md: python -m tests.security.table."""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.security.attacks import every
from tests.security.attempt import CANARY
from tests.security.judge import verdict
from tests.security.site import logged_secrets, site
from tests.security.trials import trials
from tests.security.wires import SCENES


def rows(achieved: dict[tuple[str, str], str]) -> list[str]:
    """The table's lines: attempts and how many succeeded, by kind."""
    made = Counter(a.kind for a in (*every(), *SCENES, *trials()))
    won = Counter(kind for kind, _ in achieved)
    lines = [f"| {kind} | {number} | {won[kind]} |" for kind, number in made.items()]
    return [
        "| what is tried | attempts | succeeded |",
        "|---|---|---|",
        *lines,
        f"| all | {made.total()} | {won.total()} |",
    ]


def main() -> None:
    """Exit code 1 if any attempt succeeds."""
    achieved = {}
    with tempfile.TemporaryDirectory() as root, site(Path(root)) as attacked:
        for attempt in every():
            if what := verdict(attacked, attempt):
                achieved[attempt.kind, attempt.name] = what
        for scene in SCENES:
            if what := scene.run(attacked):
                achieved[scene.kind, scene.name] = what
        for n, trial in enumerate(trials()):
            folder = Path(root) / str(n)
            folder.mkdir()
            if what := trial.run(folder):
                achieved[trial.kind, trial.name] = what
        leaked = logged_secrets(attacked.log, CANARY)
    print("\n".join(rows(achieved)))  # noqa: T201 - this is what it is for
    for (kind, name), what in achieved.items():
        print(f"{kind}: {name}: {what}", file=sys.stderr)  # noqa: T201
    print(f"lines of the log with a key or with what was said: {len(leaked)}", file=sys.stderr)  # noqa: T201
    sys.exit(bool(achieved or leaked))


if __name__ == "__main__":
    main()
