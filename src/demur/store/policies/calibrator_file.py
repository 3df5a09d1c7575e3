"""Fitted calibrators as JSON: inside policy.json, or a correctness-aware one in a file of its own.

1. A record of demur.core.maps is an object of its fields, with its `kind` before them:
   {"kind": "platt", "slope": 1.0, "offset": 0.0}. Pydantic reads and writes the record itself.
2. Maps that hold other maps (`fitted`, `pair`, `one-vs-rest`) hold them behind a port, of which
   pydantic knows no class. Here they are read from the outside in, by their kinds.
3. Numbers are written with all their digits: what is read decides bit for bit as what was fitted.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from demur.base.boundary import Strict, dumped, read_json, validated
from demur.base.errors import PolicyError
from demur.base.files import write_json
from demur.base.suggest import suggest
from demur.core.calibrator import Calibrator, Fitted, Identity
from demur.core.maps import binary, multiclass
from demur.core.maps.correctness import CorrectnessAware

# kind in the file -> record in core, by what may stand in one place
_CALIBRATORS: Mapping[str, type[Any]] = {"identity": Identity, "fitted": Fitted}
_BINARY: Mapping[str, type[Any]] = {
    "platt": binary.Platt,
    "beta": binary.Beta,
    "isotonic": binary.Isotonic,
    "histogram": binary.Histogram,
    "venn-abers": binary.VennAbers,
}
_MAPS: Mapping[str, type[Any]] = {
    "temperature": multiclass.Temperature,
    "vector": multiclass.Vector,
    "matrix": multiclass.Matrix,
    "beta-softmax": multiclass.BetaSoftmax,
    "ensemble": multiclass.Ensemble,
    "piecewise-linear": multiclass.PiecewiseLinear,
    "umnn": multiclass.Umnn,
    "pair": multiclass.Pair,
    "one-vs-rest": multiclass.OneVsRest,
}
_KINDS = {record: kind for kind, record in {**_CALIBRATORS, **_BINARY, **_MAPS}.items()}

_CORRECTNESS_FORMAT = "demur.correctness-aware/1"


class _FittedRow(Strict):
    """A core Fitted whose map is a JSON value still. The two rows below hold maps likewise."""

    tokens: tuple[str, ...]
    map: Any


class _PairRow(Strict):
    map: Any


class _OneVsRestRow(Strict):
    maps: tuple[Any, ...]


def calibrator_from_json(value: object) -> Calibrator:
    """The calibrator of a policy file. Raises PolicyError naming the key, or if the parts of the
    calibrator contradict each other.
    """
    found: Calibrator = _record(value, _CALIBRATORS, "calibrator")
    return found


def calibrator_to_json(calibrator: Calibrator) -> dict[str, Any]:
    """The JSON value of a calibrator. Raises PolicyError on a calibrator or map of somebody's own
    making: it has no format.
    """
    return _value(calibrator)


def write_correctness_aware(path: Path, calibrator: CorrectnessAware) -> None:
    """Write a correctness-aware calibrator atomically. It is no part of a policy: it needs scores
    of rewritten prompts.
    """
    write_json(path, {"format": _CORRECTNESS_FORMAT, **dumped(calibrator)})


def read_correctness_aware(path: Path) -> CorrectnessAware:
    """Read a correctness-aware calibrator. Raises PolicyError naming the file, the key and the
    remedy.
    """
    value = read_json(path, PolicyError)
    if not isinstance(value, dict) or value.pop("format", None) != _CORRECTNESS_FORMAT:
        raise PolicyError(
            f"{path}: format: it is not {_CORRECTNESS_FORMAT!r}",
            "make it again: demur calibrate --calibrator correctness-aware",
        )
    return validated(CorrectnessAware, value, str(path), PolicyError)


def _record(value: object, kinds: Mapping[str, type[Any]], where: str) -> Any:
    """The record of a JSON object that is of one of these kinds, and of all records within it."""
    # what is no object has no kind, and gets the error of an unknown one
    fields = dict(value) if isinstance(value, Mapping) else {}
    kind = fields.pop("kind", None)
    if not isinstance(kind, str) or kind not in kinds:
        raise PolicyError(f"{where}: kind: unknown {kind!r:.60}", suggest(str(kind), kinds))
    if kind == "fitted":
        row = validated(_FittedRow, fields, where, PolicyError)
        return Fitted(tokens=row.tokens, map=_record(row.map, _MAPS, f"{where}.map"))
    if kind == "pair":
        only = validated(_PairRow, fields, where, PolicyError).map
        return multiclass.Pair(map=_record(only, _BINARY, f"{where}.map"))
    if kind == "one-vs-rest":
        each = validated(_OneVsRestRow, fields, where, PolicyError).maps
        maps = (_record(one, _BINARY, f"{where}.maps.{n}") for n, one in enumerate(each))
        return multiclass.OneVsRest(maps=tuple(maps))
    return validated(kinds[kind], fields, where, PolicyError)


def _value(record: object) -> dict[str, Any]:
    """The JSON object of a record and of all records within it."""
    kind = _KINDS.get(type(record))
    if kind is None:
        raise PolicyError(
            f"a {type(record).__name__} cannot be written to a policy",
            "fit one of demur's families",
        )
    if isinstance(record, Fitted):
        return {"kind": kind, "tokens": list(record.tokens), "map": _value(record.map)}
    if isinstance(record, multiclass.Pair):
        return {"kind": kind, "map": _value(record.map)}
    if isinstance(record, multiclass.OneVsRest):
        return {"kind": kind, "maps": [_value(one) for one in record.maps]}
    return {"kind": kind, **dumped(record)}
