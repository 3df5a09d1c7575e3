"""demur doctor: is this model ready to be scored and served?"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from demur.cli import options
from demur.cli.show import note, print_json, print_table
from demur.config import DEFAULT_TAXONOMY
from demur.core.ports import Origin
from demur.core.readiness import Readiness
from demur.core.taxonomy import preset
from demur.store.model_file import FILE_NAME, require_whole
from demur.store.run import RunFolder
from demur.store.upgrade import brought_up_to_date
from demur.wiring import find

NOT_READY = 2


def command(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A run, a checkpoint folder, or a Hugging Face model name.")
    ],
    taxonomy: Annotated[
        str, typer.Option(help="Whose control tokens to look for where no demur.json lies beside the weights.")
    ] = DEFAULT_TAXONOMY,
    dtypes: Annotated[bool, typer.Option(help="Compare dtypes, which loads the model a second time.")] = True,
    as_json: options.AsJson = False,
) -> None:
    """Check control tokens, chat template, trained rows and mass. Exit code 2 if something must be repaired."""
    model, declared, origin = _declared(model, taxonomy)
    examination = find("demur.engines.hf_doctor:Examination", {}, "check")
    examine = find("demur.engines.hf_doctor:examine", {}, "check")
    readiness: Readiness = examine(examination(model=model, dtypes=dtypes, **declared))
    if as_json:
        base = {"base": asdict(origin)} if origin else {}
        print_json({**asdict(readiness), "ready": readiness.ready, **base})
    else:
        rows = [(f.check, "ok" if f.ok else "NOT OK", f.detail) for f in readiness.findings]
        print_table([("check", "", "found"), *rows], words=3)
        for finding in readiness.findings:
            if not finding.ok:
                note(f"{finding.check}: {finding.hint}")
        if origin:
            note(f"base: {origin.text}")
        note(f"{model} is {'ready' if readiness.ready else 'not ready'}")
    if not readiness.ready:
        raise typer.Exit(NOT_READY)


def _declared(model: str, taxonomy: str) -> tuple[str, dict[str, Any], Origin | None]:
    """The checkpoint, what it says of itself in demur.json, else the control tokens of a built-in taxonomy; its base.

    Raises ArtifactError if a file of a run's model, or of a folder with a demur.json, is not as training left it.
    """
    run = RunFolder(Path(model))
    if (run.root / "config.json").exists() and run.stage("train").is_dir():
        model, file = str(run.model), brought_up_to_date(run)
    elif (Path(model) / FILE_NAME).exists():
        file = require_whole(Path(model))
    else:
        return model, {"tokens": preset(taxonomy).tokens}, None
    fingerprint = file.fingerprint.to_core()
    keep_history = bool(file.details.get("keep_history", True))
    declared = {"tokens": fingerprint.tokens, "keep_history": keep_history, "fingerprint": fingerprint}
    return model, declared, file.to_core().origin
