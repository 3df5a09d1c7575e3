"""demur demo: the whole pipeline on the built-in corpus, from the config that comes with the
package.
"""

from __future__ import annotations

import math
import shlex
import shutil
import sys
from importlib import resources
from pathlib import Path

from demur.assembly.config import load_config
from demur.cli import options
from demur.cli.terminal import note
from demur.core.policy import Policy
from demur.store.policies.policy_file import read_policy
from demur.store.results.everyday_file import Everyday, read_everyday
from demur.store.run import RunFolder


def command(out: options.Out = None, settings: options.Set = None) -> None:
    """Run the packaged demo config. Needs no network and no accelerator."""
    from demur.assembly.run import new_workspace
    from demur.cli.all_stages import default_folder, run_all

    # the config may lie in a zip: as_file gives it a path on disk
    with resources.as_file(resources.files("demur.cli") / "demo.toml") as path:
        config = load_config(Path(path), overrides=settings or ())
    workspace = new_workspace(config, out or default_folder(config))
    run_all(workspace)
    for line in invitation(workspace.folder):
        note(line)


def invitation(folder: RunFolder) -> list[str]:
    """Lines with the next commands: chat, a moved threshold that changes a decision, serve."""
    demur, run = _program(), shlex.quote(str(folder.root))
    everyday = read_everyday(folder)
    moved = moved_threshold(read_policy(folder.policy), everyday) if everyday else None
    lines = ["now:", f"  {demur} chat {run}"]
    if moved:
        prompt, threshold, before = moved
        lines.append(
            f"  {demur} decide {run} {shlex.quote(prompt)} --threshold {threshold}  # was: {before}"
        )
    return [*lines, f"  {demur} serve {run}"]


def moved_threshold(policy: Policy, everyday: Everyday) -> tuple[str, str, str] | None:
    """Find a prompt whose decision changes under another threshold: (prompt, "category=number", the
    policy's decision). It is the everyday prompt that is nearest to its threshold.

    None if no prompt can be moved, and under any rule but `heaviest`.
    """
    # Under `heaviest` one threshold decides a prompt: that of its heaviest category.
    if policy.rule != "heaviest":
        return None
    found = []
    for row in everyday.rows:
        name, p = max(
            ((n, row.probability[n]) for n in policy.taxonomy.names), key=lambda pair: pair[1]
        )
        category = policy.category(name)
        # whether a caller may move this threshold at all
        free = (
            category.may_emit
            and category.override is None
            and not category.locked
            and category.limits is None
        )
        number = _beyond(p, refused=row.decided != "respond")
        if free and not row.doubt and row.decided in ("respond", name) and number is not None:
            # nearest first: the smallest change that shows
            found.append(
                (abs(min(category.threshold, 1.0) - p), row.prompt, f"{name}={number}", row.decided)
            )
    return min(found)[1:] if found else None


def _beyond(p: float, *, refused: bool) -> str | None:
    """A threshold of two digits on the other side of a probability: above it to answer what was
    refused, below it to refuse what was answered. None where there is none.
    """
    # Not nearer than half a step: the same prompt scored in another batch differs in its last
    # digits.
    hundredths = math.floor(100 * p + 1.5) if refused else math.ceil(100 * p - 1.5)
    return f"{hundredths / 100:.2f}" if 0 < hundredths < 100 else None


def _program() -> str:
    """The words that start demur in a shell: its name where the shell finds it, else as now."""
    started = Path(sys.argv[0])
    if shutil.which("demur"):
        return "demur"
    # a script of that name that is not on the path, or `python -m demur`
    return (
        shlex.quote(str(started))
        if started.name == "demur"
        else f"{shlex.quote(sys.executable)} -m demur"
    )
