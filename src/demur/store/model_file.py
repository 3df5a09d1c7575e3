"""demur.json: what makes a checkpoint a demur model. It lies beside the weights."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from demur.core.errors import ArtifactError, DemurError
from demur.core.ports import TrainedModel
from demur.core.taxonomy import Taxonomy
from demur.store.boundary import Strict, read_json, validated
from demur.store.files import write_json
from demur.store.policy_file import FingerprintRow, TaxonomyRow

FILE_NAME = "demur.json"


class ModelFile(Strict):
    """demur.json."""

    format: Literal["demur.model/1"] = "demur.model/1"
    taxonomy: TaxonomyRow
    fingerprint: FingerprintRow
    data_digest: str  # of the training split
    steps: int
    row_change: tuple[float, ...]  # per control token, see core.ports.TrainedModel
    details: dict[str, str | int | float | bool]
    history: tuple[dict[str, float], ...]

    def to_core(self) -> TrainedModel:
        """What training left behind."""
        return TrainedModel(
            fingerprint=self.fingerprint.to_core(),
            steps=self.steps,
            history=self.history,
            row_change=self.row_change,
            details=self.details,
        )


def write_model_file(folder: Path, taxonomy: Taxonomy, trained: TrainedModel, data_digest: str) -> None:
    """Write demur.json beside the checkpoint in `folder`."""
    file = ModelFile(
        taxonomy=TaxonomyRow.from_core(taxonomy),
        fingerprint=FingerprintRow.from_core(trained.fingerprint),
        data_digest=data_digest,
        steps=trained.steps,
        row_change=trained.row_change,
        details=trained.details,
        history=trained.history,
    )
    write_json(folder / FILE_NAME, file.model_dump(mode="json"))


def read_model_file(folder: Path) -> ModelFile:
    """Read demur.json of a checkpoint folder. Raises ArtifactError if it is missing or damaged."""
    path = folder / FILE_NAME
    file = validated(ModelFile, read_json(path), str(path))
    try:
        file.taxonomy.to_core()
    except DemurError as e:
        raise ArtifactError(f"{path}: {e.message}", e.hint) from None
    return file
