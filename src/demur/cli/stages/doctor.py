"""demur doctor: whether a model is ready to be scored and served, and what training would do with a
base model.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from demur.assembly.checks import base_readiness, has_gpu, is_base, model_readiness
from demur.assembly.config import DEFAULT_TAXONOMY
from demur.cli import options
from demur.cli.terminal import note, print_json, print_table
from demur.core.ports import Origin
from demur.core.taxonomy import preset
from demur.core.training.readiness import Readiness
from demur.core.training.settings import defaults
from demur.store.models.model_file import FILE_NAME, require_whole
from demur.store.run import RunFolder

NOT_READY = 2  # as for other input at fault


def command(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="A run, a checkpoint folder, or a Hugging Face model name."
        ),
    ],
    *,
    taxonomy: Annotated[
        str,
        typer.Option(
            help="Whose control tokens to look for where no demur.json lies beside the weights."
        ),
    ] = DEFAULT_TAXONOMY,
    dtypes: Annotated[
        bool, typer.Option(help="Compare dtypes, which loads the model a second time.")
    ] = True,
    recipe: Annotated[
        str | None,
        typer.Option(
            help=(
                "Of a base: the train.recipe to reckon with, none or cpu. Default: cpu without a "
                "GPU."
            )
        ),
    ] = None,
    rows: Annotated[
        int, typer.Option(min=1, help="Of a base: how many training rows to reckon with.")
    ] = 5000,
    as_json: options.AsJson = False,
) -> None:
    """Check a trained model, or say what training would do with a base. Exit code 2 if something
    must be repaired.
    """
    model, declared, origin = _declared(model, taxonomy)
    # Without a demur.json, and without control tokens among its own, the model is one that training
    # may start from.
    if origin is None and "fingerprint" not in declared and is_base(model, declared["tokens"]):
        settings = replace(defaults(model, recipe or ("none" if has_gpu() else "cpu")), base=model)
        readiness = base_readiness(preset(taxonomy), settings, rows)
        _print_readiness(readiness, "to be trained", as_json=as_json)
        return
    readiness = model_readiness(model, dtypes=dtypes, **declared)
    _print_readiness(readiness, "to be scored and served", origin, as_json=as_json)


def _print_readiness(
    readiness: Readiness, purpose: str, origin: Origin | None = None, *, as_json: bool
) -> None:
    """Print the findings. Raises Exit with NOT_READY unless all are fine."""
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
        note(f"{readiness.model} is {'ready' if readiness.ready else 'not ready'} {purpose}")
    if not readiness.ready:
        raise typer.Exit(NOT_READY)


def _declared(model: str, taxonomy: str) -> tuple[str, dict[str, Any], Origin | None]:
    """The checkpoint, the arguments that demur.json gives for its checks, and its base. Without a
    demur.json the control tokens are those of a built-in taxonomy.

    Raises ArtifactError if a file of a run's model, or of a folder with a demur.json, is not as
    training left it.
    """
    from demur.store.models.upgrade import upgrade_model_file

    # a run, a folder of a demur model, or any checkpoint
    run = RunFolder(Path(model))
    if (run.root / "config.json").exists() and run.stage("train").is_dir():
        model, file = str(run.model), upgrade_model_file(run)
    elif (Path(model) / FILE_NAME).exists():
        file = require_whole(Path(model))
    else:
        return model, {"tokens": preset(taxonomy).tokens}, None
    fingerprint = file.fingerprint
    # models of before there was a choice kept the control tokens of earlier turns
    keep_history = bool(file.details.get("keep_history", True))
    declared = {
        "tokens": fingerprint.tokens,
        "keep_history": keep_history,
        "fingerprint": fingerprint,
    }
    return model, declared, file.to_core().origin
