"""demur doctor: is this model ready to be scored and served?"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from demur.cli import options
from demur.cli.show import note, print_json, print_table
from demur.config import DEFAULT_TAXONOMY
from demur.core.readiness import Readiness
from demur.core.taxonomy import preset
from demur.store.model_file import FILE_NAME, read_model_file
from demur.wiring import find

NOT_READY = 2


def command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A checkpoint folder, or a Hugging Face model name.")],
    taxonomy: Annotated[
        str, typer.Option(help="Whose control tokens to look for where no demur.json lies beside the weights.")
    ] = DEFAULT_TAXONOMY,
    dtypes: Annotated[bool, typer.Option(help="Compare dtypes, which loads the model a second time.")] = True,
    as_json: options.AsJson = False,
) -> None:
    """Check control tokens, chat template, trained rows and mass. Exit code 2 if something must be repaired."""
    examination = find("demur.engines.hf_doctor:Examination", {}, "check")
    examine = find("demur.engines.hf_doctor:examine", {}, "check")
    readiness: Readiness = examine(examination(model=model, dtypes=dtypes, **_declared(model, taxonomy)))
    if as_json:
        print_json({**asdict(readiness), "ready": readiness.ready})
    else:
        rows = [(f.check, "ok" if f.ok else "NOT OK", f.detail) for f in readiness.findings]
        print_table([("check", "", "found"), *rows], words=3)
        for finding in readiness.findings:
            if not finding.ok:
                note(f"{finding.check}: {finding.hint}")
        note(f"{model} is {'ready' if readiness.ready else 'not ready'}")
    if not readiness.ready:
        raise typer.Exit(NOT_READY)


def _declared(model: str, taxonomy: str) -> dict[str, Any]:
    """What the model says of itself in demur.json, else the control tokens of a built-in taxonomy."""
    if not (Path(model) / FILE_NAME).exists():
        return {"tokens": preset(taxonomy).tokens}
    file = read_model_file(Path(model))
    fingerprint = file.fingerprint.to_core()
    keep_history = bool(file.details.get("keep_history", True))
    return {"tokens": fingerprint.tokens, "keep_history": keep_history, "fingerprint": fingerprint}
