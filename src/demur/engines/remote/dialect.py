"""What an endpoint calls the limit of tokens, and which sampling fields it does not take.

Reasoning models turn `max_tokens` and temperature 0 down. A request that is turned down for such a
field is sent once more without it; what worked is kept for the requests after.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from demur.base.errors import ConfigError

LIMIT, NEW_LIMIT = "max_tokens", "max_completion_tokens"
OPTIONAL = ("temperature", "top_p", "seed", "stream_options")  # what an answer can be had without
_SAYS_NO = (400, 422)
_UNSUPPORTED = re.compile(
    r"unsupported|not support|unrecogni[sz]ed|unknown|unexpected|not permitted|not allowed|extra",
    re.I,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Dialect:
    """How one endpoint is spoken to. Raises ConfigError on a field that must be sent."""

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
        """A request in OpenAI's first words as this endpoint takes it."""
        kept = {name: value for name, value in body.items() if name not in self.leave_out}
        return {self.limit if name == LIMIT else name: value for name, value in kept.items()}

    @property
    def description(self) -> str:
        """What is unlike the usual; empty if nothing is."""
        renamed = [f"asked with {self.limit}"] if self.limit != LIMIT else []
        return ", ".join([*renamed, *(f"without {name}" for name in self.leave_out)])


def adapted_dialect(
    dialect: Dialect, status: int, error: Any, sent: Mapping[str, Any]
) -> Dialect | None:
    """The dialect to try after a request was turned down; None where the error names no field that
    could be spared.

    error: the parsed body. sent: the request as it went out.
    """
    if status not in _SAYS_NO:
        return None
    name = _named(error, [n for n in (LIMIT, NEW_LIMIT, *OPTIONAL) if n in sent])
    if name is None:
        return None
    if name in (LIMIT, NEW_LIMIT):
        return replace(dialect, limit=NEW_LIMIT if name == LIMIT else LIMIT)
    return replace(dialect, leave_out=(*dialect.leave_out, name))


def _named(error: Any, names: list[str]) -> str | None:
    """The field that an error is about: its `param`, else the first one that its words name."""
    inner = error.get("error", error) if isinstance(error, Mapping) else error
    param = inner.get("param") if isinstance(inner, Mapping) else None
    if param in names and isinstance(param, str):
        return param
    text = inner if isinstance(inner, str) else json.dumps(inner, default=str)
    text = text[:2000]
    if not _UNSUPPORTED.search(text):
        return None
    found = {n: m.start() for n in names if (m := re.search(rf"\b{n}\b", text))}
    return min(found, key=found.__getitem__) if found else None
