"""Fitted calibrators as JSON: inside policy.json, or a correctness-aware one in a file of its own.

Numbers are written with all their digits: what is read decides bit for bit as what was fitted.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from demur.base.boundary import Strict, read_json, validated
from demur.base.errors import PolicyError
from demur.base.files import write_json
from demur.core.calibrator import IDENTITY, Calibrator, Fitted, Map
from demur.core.maps import binary as binary_maps
from demur.core.maps import multiclass as maps
from demur.core.maps.binary import BinaryMap
from demur.core.maps.correctness import CorrectnessAware

Number = Annotated[float, Field(allow_inf_nan=False)]
Numbers = tuple[Number, ...]


class PlattRow(Strict):
    """A core Platt map, field by field; so are all rows below."""

    kind: Literal["platt"] = "platt"
    slope: Number
    offset: Number


class BetaRow(Strict):
    """Beta."""

    kind: Literal["beta"] = "beta"
    a: Number
    b: Number
    c: Number


class IsotonicRow(Strict):
    """Isotonic."""

    kind: Literal["isotonic"] = "isotonic"
    score_J: Numbers
    calibrated_J: Numbers


class HistogramRow(Strict):
    """Histogram."""

    kind: Literal["histogram"] = "histogram"
    edge_J: Numbers
    value_B: Numbers


class VennAbersRow(Strict):
    """VennAbers."""

    kind: Literal["venn-abers"] = "venn-abers"
    score0_J: Numbers
    p0_J: Numbers
    score1_J: Numbers
    p1_J: Numbers


BinaryRow = Annotated[
    PlattRow | BetaRow | IsotonicRow | HistogramRow | VennAbersRow, Field(discriminator="kind")
]


class TemperatureRow(Strict):
    """Temperature."""

    kind: Literal["temperature"] = "temperature"
    temperature: Number


class VectorRow(Strict):
    """Vector."""

    kind: Literal["vector"] = "vector"
    weights: Numbers
    offsets: Numbers


class MatrixRow(Strict):
    """Matrix."""

    kind: Literal["matrix"] = "matrix"
    weights: tuple[Numbers, ...]
    offsets: Numbers


class BetaSoftmaxRow(Strict):
    """BetaSoftmax."""

    kind: Literal["beta-softmax"] = "beta-softmax"
    a: Numbers
    b: Numbers
    c: Numbers


class EnsembleRow(Strict):
    """Ensemble."""

    kind: Literal["ensemble"] = "ensemble"
    inverse_temperatures: Numbers
    weights: Numbers


class PiecewiseLinearRow(Strict):
    """PiecewiseLinear."""

    kind: Literal["piecewise-linear"] = "piecewise-linear"
    width: Number
    slopes: Numbers


class UmnnRow(Strict):
    """Umnn."""

    kind: Literal["umnn"] = "umnn"
    mean: Number
    deviation: Number
    weights: tuple[tuple[Numbers, ...], ...]
    offsets: tuple[Numbers, ...]


class PairRow(Strict):
    """Pair."""

    kind: Literal["pair"] = "pair"
    map: BinaryRow


class OneVsRestRow(Strict):
    """OneVsRest."""

    kind: Literal["one-vs-rest"] = "one-vs-rest"
    maps: tuple[BinaryRow, ...]


MapRow = Annotated[
    TemperatureRow
    | VectorRow
    | MatrixRow
    | BetaSoftmaxRow
    | EnsembleRow
    | PiecewiseLinearRow
    | UmnnRow
    | PairRow
    | OneVsRestRow,
    Field(discriminator="kind"),
]


class IdentityRow(Strict):
    """No calibrator."""

    kind: Literal["identity"] = "identity"


class FittedRow(Strict):
    """A map and the control tokens it was fitted on."""

    kind: Literal["fitted"] = "fitted"
    tokens: tuple[str, ...]
    map: MapRow


CalibratorRow = Annotated[IdentityRow | FittedRow, Field(discriminator="kind")]


class CorrectnessAwareFile(Strict):
    """A correctness-aware calibrator: no part of a policy, it needs scores of rewritten prompts."""

    format: Literal["demur.correctness-aware/1"]
    tokens: tuple[str, ...]
    rewrites: tuple[str, ...]
    own: bool
    top: int
    hidden_weights: tuple[Numbers, ...]
    hidden_offsets: Numbers
    output_weights: Numbers
    output_offset: Number


_PLAIN: tuple[tuple[type[Strict], type[Any]], ...] = (
    (PlattRow, binary_maps.Platt),
    (BetaRow, binary_maps.Beta),
    (IsotonicRow, binary_maps.Isotonic),
    (HistogramRow, binary_maps.Histogram),
    (VennAbersRow, binary_maps.VennAbers),
    (TemperatureRow, maps.Temperature),
    (VectorRow, maps.Vector),
    (MatrixRow, maps.Matrix),
    (BetaSoftmaxRow, maps.BetaSoftmax),
    (EnsembleRow, maps.Ensemble),
    (PiecewiseLinearRow, maps.PiecewiseLinear),
    (UmnnRow, maps.Umnn),
)
_RECORDS = dict(_PLAIN)
_ROWS = {record: row for row, record in _PLAIN}


def calibrator_from_row(row: IdentityRow | FittedRow) -> Calibrator:
    """The core record. Raises PolicyError if its parts contradict each other."""
    return (
        IDENTITY
        if isinstance(row, IdentityRow)
        else Fitted(tokens=row.tokens, map=_record(row.map))
    )


def row_of_calibrator(calibrator: Calibrator) -> IdentityRow | FittedRow:
    """The row of a core record. Raises PolicyError on a calibrator of somebody's own making: it has
    no format.
    """
    if calibrator == IDENTITY:
        return IdentityRow()
    if not isinstance(calibrator, Fitted):
        raise PolicyError(
            f"a {type(calibrator).__name__} cannot be written to a policy",
            "fit one of demur's families",
        )
    return FittedRow.model_validate({"tokens": calibrator.tokens, "map": _row(calibrator.map)})


def write_correctness_aware(path: Path, calibrator: CorrectnessAware) -> None:
    """Write a correctness-aware calibrator atomically."""
    fields = {f: getattr(calibrator, f) for f in CorrectnessAwareFile.model_fields if f != "format"}
    write_json(
        path,
        CorrectnessAwareFile(format="demur.correctness-aware/1", **fields).model_dump(mode="json"),
    )


def read_correctness_aware(path: Path) -> CorrectnessAware:
    """Read one. Raises PolicyError naming the file, the key and the remedy."""
    file = validated(CorrectnessAwareFile, read_json(path, PolicyError), str(path), PolicyError)
    return CorrectnessAware(**{f: v for f, v in dict(file).items() if f != "format"})


def _record(row: Strict) -> Any:
    if isinstance(row, PairRow):
        return maps.Pair(map=_record(row.map))
    if isinstance(row, OneVsRestRow):
        return maps.OneVsRest(maps=tuple(_record(m) for m in row.maps))
    return _RECORDS[type(row)](**{f: v for f, v in dict(row).items() if f != "kind"})


def _row(record: Map | BinaryMap) -> Strict:
    if isinstance(record, maps.Pair):
        return PairRow.model_validate({"map": _row(record.map)})
    if isinstance(record, maps.OneVsRest):
        return OneVsRestRow.model_validate({"maps": [_row(m) for m in record.maps]})
    if type(record) not in _ROWS:
        raise PolicyError(
            f"a {type(record).__name__} cannot be written to a policy",
            "fit one of demur's families",
        )
    row = _ROWS[type(record)]
    return row(**{f: getattr(record, f) for f in row.model_fields if f != "kind"})
