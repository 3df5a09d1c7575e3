"""The dialect of an endpoint: its name for the token limit, and the sampling fields it rejects.

Reasoning models reject `max_tokens` and temperature 0. A request that is rejected for such a field
is sent once more without it, and the dialect that worked is kept for later requests.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from demur.base.errors import ConfigError

LIMIT, NEW_LIMIT = "max_tokens", "max_completion_tokens"
OPTIONAL = ("temperature", "top_p", "seed", "stream_options")  # fields that may be left out
_REJECTED_FIELDS = (400, 422)  # statuses that endpoints give for a field they do not take
_UNSUPPORTED = re.compile(
    r"unsupported|not support|unrecogni[sz]ed|unknown|unexpected|not permitted|not allowed|extra",
    re.I,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Dialect:
    """The token limit's name and the fields left out. Raises ConfigError on a required field."""

    limit: str = LIMIT
    leave_out: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.limit not in (LIMIT, NEW_LIMIT):
            raise ConfigError(f"token_limit = {self.limit!r}", f"known: {LIMIT}, {NEW_LIMIT}")
        if needed := sorted(set(self.leave_out) - set(OPTIONAL)):
            raise ConfigError(
                f"leave_out names {needed[0]!r}", f"what can be left out: {', '.join(OPTIONAL)}"
            )

    def translate(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """A request body, written with `max_tokens`, as this endpoint takes it."""
        kept = {name: value for name, value in body.items() if name not in self.leave_out}
        return {self.limit if name == LIMIT else name: value for name, value in kept.items()}

    @property
    def description(self) -> str:
        """How the dialect differs from the usual one; empty if it does not."""
        renamed = [f"asked with {self.limit}"] if self.limit != LIMIT else []
        return ", ".join([*renamed, *(f"without {name}" for name in self.leave_out)])


def adapted_dialect(
    dialect: Dialect, status: int, error: Any, sent: Mapping[str, Any]
) -> Dialect | None:
    """The dialect to retry a rejected request in; None where the error names no optional field.

    error: the parsed body. sent: the request as it went out.
    """
    if status not in _REJECTED_FIELDS:
        return None
    # Only a field that was sent can be at fault, which also ends the retries.
    name = _named(error, [n for n in (LIMIT, NEW_LIMIT, *OPTIONAL) if n in sent])
    if name is None:
        return None
    if name in (LIMIT, NEW_LIMIT):
        return replace(dialect, limit=NEW_LIMIT if name == LIMIT else LIMIT)
    return replace(dialect, leave_out=(*dialect.leave_out, name))


def _named(error: Any, names: list[str]) -> str | None:
    """The field that an error is about: its `param`, else the first of `names` in its text."""
    inner = error.get("error", error) if isinstance(error, Mapping) else error
    param = inner.get("param") if isinstance(inner, Mapping) else None
    if param in names and isinstance(param, str):
        return param
    # Prose: some endpoints have no `param`. It must also say that the field is not taken, or any
    # error that happens to mention a temperature would drop it.
    text = inner if isinstance(inner, str) else json.dumps(inner, default=str)
    text = text[:2000]
    if not _UNSUPPORTED.search(text):
        return None
    # field -> where the text first names it; the earliest is taken for the subject of the error
    found = {n: m.start() for n in names if (m := re.search(rf"\b{n}\b", text))}
    return min(found, key=found.__getitem__) if found else None
