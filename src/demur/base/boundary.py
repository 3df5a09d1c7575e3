"""Reading what people write: unknown keys, wrong types and broken syntax become one clear error."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from demur.base.errors import ArtifactError, ConfigError, DemurError
from demur.base.suggest import suggest
from demur.base.text import read_text


class Strict(BaseModel):
    """A record at the boundary: frozen, and a key it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Record = TypeVar("Record", bound=Strict)


def validated(
    kind: type[Record], data: object, where: str, error: type[DemurError] = ArtifactError
) -> Record:
    """`data` as a `kind`. Raises `error` naming `where`, the key, the value, and the nearest known
    key.

    The value stays out of the error where the model_config of `kind` says hide_input_in_errors: it
    may be a secret.
    """
    try:
        return kind.model_validate(data)
    except ValidationError as e:
        faults = e.errors(include_url=False)
        # A misspelt key is two faults, one unknown and one missing: the unknown one says more.
        first = next((f for f in faults if f["type"] == "extra_forbidden"), faults[0])
        hidden = kind.model_config.get("hide_input_in_errors")
        key = ".".join(str(part) for part in first["loc"]) or "the whole file"
        raise error(
            f"{where}: {key}: {_message(first, hide=bool(hidden))}", _hint(kind, first)
        ) from None


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
    if first["type"] == "extra_forbidden":
        return "unknown key"
    if hide:
        return first["msg"]
    shown = _shown(first["input"])
    return f"{first['msg']} (got {shown if len(shown) <= 80 else shown[:77] + '...'})"


def _shown(value: object) -> str:
    try:
        return repr(value)
    except (RecursionError, ValueError):  # an integer of more than 4,300 digits has no decimal text
        return f"a {type(value).__name__} that is too deep or too long to show"


def _hint(kind: type[BaseModel], first: ErrorDetails) -> str:
    if first["type"] != "extra_forbidden":
        return "correct the value"
    known = _keys_at(kind, first["loc"][:-1])
    return suggest(str(first["loc"][-1]), known, f"known keys: {', '.join(known)}")


def _keys_at(kind: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """The field names of the record nested at `loc`, or of the nearest enclosing one that can be
    told.

    In a union of records, `loc` names the one that was meant by its `kind`.
    """
    options = [kind]
    for part in loc:
        tagged = [
            o
            for o in options
            if "kind" in o.model_fields and o.model_fields["kind"].default == part
        ]
        field = options[0].model_fields.get(str(part))
        inner = (
            [
                t
                for t in _flatten(field.annotation)
                if isinstance(t, type) and issubclass(t, BaseModel)
            ]
            if field
            else []
        )
        options = tagged or inner or options
    return [f.alias or name for name, f in options[0].model_fields.items()]


def _flatten(annotation: object) -> list[object]:
    inside = getattr(annotation, "__args__", ())
    return [annotation, *(t for a in inside for t in _flatten(a))]
