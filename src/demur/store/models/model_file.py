"""demur.json: what makes a checkpoint a demur model. It lies beside the weights."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from demur.base.boundary import Strict, read_json, validated
from demur.base.errors import ArtifactError, TaxonomyError
from demur.base.files import digest_file, is_part, write_json
from demur.core.ports import Origin, TrainedModel
from demur.core.taxonomy import Taxonomy
from demur.store.fingerprint_json import StoredFingerprint

FILE_NAME = "demur.json"


class ModelFile(Strict):
    """demur.json."""

    format: Literal["demur.model/1"] = "demur.model/1"
    taxonomy: Taxonomy
    fingerprint: StoredFingerprint
    data_digest: str  # of the training split
    steps: int
    row_change: tuple[float, ...]  # per control token, see core.ports.TrainedModel
    details: dict[str, str | int | float | bool]
    history: tuple[dict[str, float], ...]
    files: dict[str, str] = Field(
        default_factory=dict
    )  # every other file of the folder -> digest; older ones have none
    base: Origin | None = None  # left out of the file where there is none

    def to_core(self) -> TrainedModel:
        """The core record of the training."""
        return TrainedModel(
            fingerprint=self.fingerprint,
            steps=self.steps,
            history=self.history,
            row_change=self.row_change,
            details=self.details,
            origin=self.base,
        )


def write_model_file(
    folder: Path, taxonomy: Taxonomy, trained: TrainedModel, data_digest: str
) -> None:
    """Write demur.json beside the checkpoint in `folder`. It comes last: it holds the digests of
    all other files there.
    """
    file = ModelFile(
        taxonomy=taxonomy,
        fingerprint=trained.fingerprint,
        data_digest=data_digest,
        steps=trained.steps,
        row_change=trained.row_change,
        details=trained.details,
        history=trained.history,
        base=trained.origin,
    )
    _write(folder, file)


def seal_model_file(folder: Path, file: ModelFile | None = None) -> None:
    """Write demur.json again after files of the folder were changed on purpose. file: its new
    content; None: as before, with new digests.

    Raises ArtifactError if demur.json is damaged.
    """
    _write(folder, file or read_model_file(folder))


def require_whole(folder: Path) -> ModelFile:
    """Read demur.json and compare the files that it names. Raises ArtifactError naming one that
    changed or is missing.

    Files that it does not name are passed over: engines say which weights they would not read.
    """
    file = read_model_file(folder)
    for name, digest in file.files.items():
        path = folder / name
        if not path.exists() or digest_file(path) != digest:
            state = "is missing" if not path.exists() else "has changed since the model was made"
            raise ArtifactError(f"{path} {state}", "restore the model folder, or train again")
    return file


def _write(folder: Path, file: ModelFile) -> None:
    # Temporaries of writers at work are left out: they are gone by the next look.
    others = (
        sorted(
            p for p in folder.rglob("*") if p.is_file() and p.name != FILE_NAME and not is_part(p)
        )
        if folder.is_dir()
        else []
    )
    files = {str(p.relative_to(folder)): digest_file(p) for p in others}
    # Keys without a value are left out, as files of before they existed have it.
    value = file.model_copy(update={"files": files}).model_dump(mode="json")
    if not files:  # a predictor elsewhere has no file here
        del value["files"]
    if file.base is None:
        del value["base"]
    write_json(folder / FILE_NAME, value)


def read_model_file(folder: Path) -> ModelFile:
    """Read demur.json of a checkpoint folder. Raises ArtifactError if it is missing or damaged."""
    path = folder / FILE_NAME
    try:
        return validated(ModelFile, read_json(path), str(path))
    except TaxonomyError as e:  # the record says it of its own values, and knows no file
        raise ArtifactError(f"{path}: {e.message}", e.hint) from None
