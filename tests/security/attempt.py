"""One attempt against a running server, and what must come of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

CHAT = "/v1/chat/completions"
CALLER, TUNER, OTHER, OPERATOR, EXPIRED, NARROW = (
    f"demur_{name}_0f3a" for name in ("caller", "tuner", "other", "operator", "expired", "narrow")
)
KEYS = (CALLER, TUNER, OTHER, OPERATOR, EXPIRED, NARROW)
CANARY = "zq7"  # in what is said: must never be seen in the log
Turns = tuple[tuple[str, str], ...]  # (role, text), as the model is to read them


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """A request that tries something.

    ends: the statuses that it may end with. Where it is answered, it must be as if it were
    harmless: `reads` is what the model must have read, letter by letter, and the decision must be
    that of the tenant's policy on it.
    """

    kind: str  # row of the table in docs/security.md
    name: str
    body: Any = None  # bytes are sent as they are, everything else as JSON
    key: str | None = CALLER
    method: str = "POST"
    path: str = CHAT
    headers: tuple[tuple[str, str], ...] = ()
    ends: tuple[int, ...] = (200,)
    codes: tuple[str, ...] = ()  # of the error; none: any
    reads: Turns | None = None
    # what the model may read besides: text of tools and schemas, as decided about
    declared: tuple[Turns, ...] = ()

    @property
    def content(self) -> bytes | None:
        """What is sent."""
        if self.body is None or isinstance(self.body, bytes):
            return self.body
        return json.dumps(self.body).encode()


def chat(*messages: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A request's body."""
    return {"model": "demur", "messages": list(messages), "max_tokens": 3, **fields}


def user(text: Any = f"{CANARY} Name a river.") -> dict[str, Any]:
    """A user's message."""
    return {"role": "user", "content": text}
