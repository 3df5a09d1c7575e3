"""An audit of a pool of requests: what is asked, and the requests drawn so far; and the file of
labels that people fill in.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import NonNegativeInt, PositiveFloat

from demur.base.boundary import Strict, read_json, validated
from demur.base.errors import DataError, TaxonomyError
from demur.base.files import write_json, write_text
from demur.base.rows import read_rows
from demur.core.taxonomy import Taxonomy
from demur.store.rows import RowId


class DrawRow(Strict):
    """One draw: a request may be drawn several times."""

    id: str
    probability: PositiveFloat  # of this draw, among all requests of the pool


class AuditFile(Strict):
    """The state of an audit. Its first five fields say what is asked; they never change."""

    format: Literal["demur.audit/1"] = "demur.audit/1"
    policy: str  # digest
    scores: str  # digest of the file of scores: the pool
    goal: str  # risk and level, as a promise states them
    confidence: float
    seed: NonNegativeInt
    draws: tuple[DrawRow, ...] = ()  # in order


class LabelledRow(Strict):
    """One line of the file of labels."""

    id: RowId
    label: str | None  # "respond" or a category; None: nobody has looked yet


def read_audit(path: Path) -> AuditFile | None:
    """Read the state of an audit; None if there is no file. Raises ArtifactError if it is
    damaged.
    """
    return validated(AuditFile, read_json(path), str(path)) if path.exists() else None


def write_audit(path: Path, audit: AuditFile) -> None:
    """Write the state of an audit atomically."""
    write_json(path, audit.model_dump(mode="json"))


def write_unlabelled(path: Path, ids: Sequence[str]) -> None:
    """Write a file for people to label: a line a request."""
    lines = (json.dumps({"id": i, "label": None}, ensure_ascii=False) for i in ids)
    write_text(path, "".join(f"{line}\n" for line in lines))


def require_free(path: Path) -> None:
    """Raise DataError where a file to be written holds anything but requests without a label."""
    if not path.exists():
        return
    try:
        rows = [validated(LabelledRow, raw.value, raw.where, DataError) for raw in read_rows(path)]
    except DataError:
        raise DataError(
            f"{path} is there already, and no file of requests to label", "give another --out"
        ) from None
    if labels := sum(row.label is not None for row in rows):
        raise DataError(
            f"{path} holds {labels} labels, which would be lost",
            "give the file with --labels, and another --out",
        )


def read_labelled(paths: Sequence[Path], taxonomy: Taxonomy) -> dict[str, int]:
    """Read labels as columns (0 = respond), by request; lines without a label are left out.

    Raises DataError naming file and line, also where two lines label a request differently, and
    TaxonomyError on an unknown label.
    """
    found: dict[str, int] = {}
    for path in paths:
        for raw in read_rows(path):
            row = validated(LabelledRow, raw.value, raw.where, DataError)
            if row.label is None:
                continue
            try:
                column = taxonomy.column(row.label)
            except TaxonomyError as e:
                raise TaxonomyError(f"{raw.where}: {e.message}", e.hint) from None
            if found.setdefault(row.id, column) != column:
                raise DataError(
                    f"{raw.where}: request {row.id!r} has two labels", "keep the right one"
                )
    return found
