"""demur score: model and held-out prompts -> one row of scores a prompt."""

from __future__ import annotations

from demur.cli import options
from demur.cli.show import note, print_table
from demur.cli.steps import Steps
from demur.cli.workspace import reopen


def command(run: options.Run) -> None:
    """Score each held-out prompt once; every threshold afterwards is arithmetic."""
    tables = Steps(reopen(run)).perform("score")
    rows = [(split, str(len(table.ids)), f"{float(table.leftover_N.mean()):.4f}") for split, table in tables.items()]
    print_table([("split", "prompts", "leftover mass"), *rows])
    note(f"next: demur calibrate {run}")
