"""demur verify: whether a policy's promises follow from the rows of the run that made it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from demur.cli import options
from demur.cli.policies import policy_file
from demur.cli.terminal import note, print_json, print_table
from demur.store.policies.policy_file import read_policy
from demur.store.policies.trust import Trust
from demur.store.run import RunFolder, run_of

if TYPE_CHECKING:
    from demur.stages.verify import VerifiedPromise

NOT_VERIFIED = 3  # a result, not a fault
NOT_LOOKED_INTO = (
    "Decisions, counts, bounds and digests were made again; the search for the thresholds was not: "
    "a signature vouches for that (--trusted)"
)


def command(
    policy: Annotated[
        Path, typer.Argument(metavar="POLICY", help="A policy file, or a calibrated run.")
    ],
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run folder that made it.")],
    *,
    trusted: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY", help="A public key; the policy must be signed by one of them."),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Count the evidence of each promise again. Exit code 0 if all follow from the run, 3 if any
    does not.
    """
    from demur.stages import verify

    # a run stands for its own policy
    file = policy_file(policy)
    found, promises = verify.run(file, _folder(run, file), Trust(keys=tuple(trusted or ())))
    # a policy without promises has nothing that could be verified
    verified = bool(promises) and not any(v.faults for v in promises)
    if as_json:
        print_json(
            {"policy": found.name, "verified": verified, "promises": [_json(v) for v in promises]}
        )
    elif promises:
        print_table(
            [("promise", "level", "counted again", "bound", "verdict"), *map(_row, promises)],
            words=5,
        )
    for v in promises:
        for fault in v.faults:
            note(f"{v.promise.risk}: {fault}")
    for words in dict.fromkeys(v.attempts.words for v in promises if v.attempts):
        if words:
            note(f"by now {words}")
    if not promises:
        note(f"policy {found.name!r} calls no promise certified: there is nothing to verify")
    if not verified:
        raise typer.Exit(NOT_VERIFIED)
    note(f"verified: {file} follows from {run}. {NOT_LOOKED_INTO}")


def _folder(run: Path, file: Path) -> RunFolder:
    """The run folder as the calibration of this policy saw it."""
    # The policy may lie in the run itself, or be a copy elsewhere: a copy is told by its name.
    folder, own = RunFolder(run), run_of(file)
    if own is not None and own.root.resolve() == run.resolve():
        return own
    name = read_policy(file).name
    return folder.named(name) if name in folder.policy_names else folder


def _row(v: VerifiedPromise) -> tuple[str, ...]:
    """A row of the table. A promise whose rows cannot be counted again has no counts and no
    bound.
    """
    counts, bound = (
        ("-", "-") if v.counted is None else (f"{v.counted.rate.hits} of {v.counted.rate.of}", "")
    )
    if v.counted is not None:
        bound = f"{v.counted.upper:.4f}"
    level = "-" if v.promise.level is None else f"{v.promise.level:g}"
    return (v.promise.risk, level, counts, bound, "not verified" if v.faults else "verified")


def _json(v: VerifiedPromise) -> dict[str, object]:
    """A promise for programs; null where its rows could not be counted again."""
    counted = v.counted
    return {
        "risk": v.promise.risk,
        "level": v.promise.level,
        "confidence": v.promise.confidence,
        "status": v.promise.status,
        "counted": None if counted is None else {"hits": counted.rate.hits, "of": counted.rate.of},
        "bound": None if counted is None else counted.upper,
        "rows": v.promise.rows,
        "attempts": None
        if v.attempts is None
        else {"count": v.attempts.count, "confidence": v.attempts.confidence},
        "faults": list(v.faults),
    }
