"""Validation of files that people write: unknown keys, wrong types and broken syntax become one
clear error.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import GenericAlias
from typing import Any, TypeVar, get_type_hints

from pydantic import BaseModel, BeforeValidator, ConfigDict, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from demur.base.errors import ArtifactError, ConfigError, DemurError
from demur.base.suggest import suggest
from demur.base.text import read_text


class Strict(BaseModel):
    """A record at the boundary: frozen, and a key it does not know is an error.

    Core records within it are checked when it is made, too: numbers of numpy become plain ones.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, revalidate_instances="always")


Record = TypeVar("Record")

# how pydantic names a key that it does not know: in a Strict, in a dataclass
_UNKNOWN_KEY = ("extra_forbidden", "unexpected_keyword_argument")


def validated(
    kind: type[Record], data: object, where: str, error: type[DemurError] = ArtifactError
) -> Record:
    """Read JSON or TOML data as a record. kind: a Strict, or a frozen dataclass of core.

    Raises `error` naming `where`, the key, the value, and the nearest known key; and whatever the
    record raises about its own values. The value stays out of the error where the model_config of
    `kind` says hide_input_in_errors: it may be a secret.
    """
    try:
        found: Record = _adapter(kind).validate_python((data,))[0]
    except ValidationError as e:
        faults = e.errors(include_url=False)
        # A misspelt key is two faults, one unknown and one missing: the unknown one says more.
        first = next((f for f in faults if f["type"] in _UNKNOWN_KEY), faults[0])
        first["loc"] = first["loc"][1:]  # without the place in the tuple of one: see _adapter
        hidden = getattr(kind, "model_config", {}).get("hide_input_in_errors")
        key = ".".join(str(part) for part in first["loc"]) or "the whole file"
        raise error(
            f"{where}: {key}: {_message(first, hide=bool(hidden))}", _hint(kind, first)
        ) from None
    return found


def dumped(record: object) -> Any:
    """The JSON value of a frozen dataclass, which `validated` reads back."""
    adapter = _adapter(type(record))
    # validated first: fitted records may hold numpy's numbers, which JSON does not know
    return adapter.dump_python(adapter.validate_python((record,)), mode="json")[0]


def every_key(kind: type, *optional: str) -> BeforeValidator:
    """For a dataclass in a file: each of its fields must be named there, but for the optional ones.

    A file that lost a key is damaged; the record's default would be something that nobody wrote.
    """
    required = {field.name for field in fields(kind)} - set(optional)

    def check(value: object) -> object:
        if isinstance(value, Mapping) and (missing := sorted(required - value.keys())):
            raise ValueError(f"missing key {missing[0]!r}")
        return value

    return BeforeValidator(check)


_ADAPTERS: dict[type, TypeAdapter[Any]] = {}  # making one takes longer than most uses of it


def _adapter(kind: type) -> TypeAdapter[Any]:
    if kind not in _ADAPTERS:
        # pydantic takes no configuration for a dataclass itself, and hands it down to one inside
        # another type: hence the tuple of one. A Strict has its own.
        one: Any = GenericAlias(tuple, (kind,))
        config = ConfigDict(extra="forbid", allow_inf_nan=False, revalidate_instances="always")
        _ADAPTERS[kind] = TypeAdapter(one, config=config)
    return _ADAPTERS[kind]


def read_json(path: Path, error: type[DemurError] = ArtifactError) -> Any:
    """The value of a JSON file. Raises `error` naming the line of the first fault."""
    text = read_text(path, error)
    try:
        return json_value(text)
    except json.JSONDecodeError as e:
        raise error(
            f"{path} is damaged: line {e.lineno}: {e.msg}", "restore it, or run its stage again"
        ) from None
    except ValueError as e:
        raise error(f"{path} is damaged: {e}", "restore it, or run its stage again") from None


def json_value(text: str | bytes) -> Any:
    """The value of JSON text. Raises ValueError on anything else, however deep or long it is."""
    try:
        return json.loads(text, parse_constant=_no_number)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_toml(path: Path) -> dict[str, Any]:
    """The table of a TOML file. Raises ConfigError naming the fault."""
    return toml_value(read_text(path, ConfigError), path)


def toml_value(text: str, path: Path) -> dict[str, Any]:
    """The table of TOML text. Raises ConfigError naming `path`, however deep or long the text
    is.
    """
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ConfigError(
            f"{path} is nested too deeply", "see examples/ for working files"
        ) from None
    except ValueError as e:  # also a number of thousands of digits, or a date that no calendar has
        raise ConfigError(f"{path} is not TOML: {e}", "see examples/ for working files") from None


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number that JSON has")


def _message(first: ErrorDetails, *, hide: bool) -> str:
    """The fault in words, with the value unless it is to be hidden."""
    if first["type"] in _UNKNOWN_KEY:
        return "unknown key"
    if hide:
        return first["msg"]
    try:
        shown = repr(first["input"])
    except (RecursionError, ValueError):  # an integer of more than 4,300 digits has no decimal text
        shown = f"a {type(first['input']).__name__} that is too deep or too long to show"
    return f"{first['msg']} (got {shown if len(shown) <= 80 else shown[:77] + '...'})"


def _hint(kind: type, first: ErrorDetails) -> str:
    """The nearest known key for an unknown one, else that the value is wrong."""
    if first["type"] not in _UNKNOWN_KEY:
        return "correct the value"
    known = _keys_at(kind, first["loc"][:-1])
    return suggest(str(first["loc"][-1]), known, f"known keys: {', '.join(known)}")


def _keys_at(kind: type, loc: tuple[int | str, ...]) -> list[str]:
    """The field names of the record nested at `loc`, or of the nearest enclosing one that can be
    found.
    """
    for part in loc:
        # the first record within the annotation: Inner of `Inner | None` or `tuple[Inner, ...]`
        kind = next(filter(_is_record, _flatten(_annotations(kind).get(str(part)))), kind)
    if issubclass(kind, BaseModel):
        return [field.alias or name for name, field in kind.model_fields.items()]
    return list(_annotations(kind))


def _annotations(kind: type) -> dict[str, Any]:
    if issubclass(kind, BaseModel):
        return {name: field.annotation for name, field in kind.model_fields.items()}
    return get_type_hints(kind)


def _is_record(annotation: object) -> bool:
    return isinstance(annotation, type) and (
        issubclass(annotation, BaseModel) or is_dataclass(annotation)
    )


def _flatten(annotation: object) -> list[Any]:
    inside = getattr(annotation, "__args__", ())
    return [annotation, *(t for a in inside for t in _flatten(a))]
