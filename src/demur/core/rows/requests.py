"""The requests behind rows: how many a row stands for, and the sessions that they came in."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Sequence

from demur.base.errors import DataError

MOST_REQUESTS = 10**12  # of one row: sums over any table of rows stay exact in 64 bits
_NAME_DIGITS = 16  # of the digest that names several sessions: 64 bits
# a whole number, also as tables write it that hold numbers with a fraction: "3.0"
_WHOLE = re.compile(r"(\d{1,30})(?:\.0*)?", re.ASCII)


def requests_of(text: str | None, value: object, column: str) -> int:
    """The number of requests that a cell gives: 3 where its text is "3" or "3.0".

    text: of the value, None if it is blank. Raises DataError with the column and its value on
    anything else that is no whole number of 1 or more, a blank cell among them.
    """
    found = _WHOLE.fullmatch(text or "")
    if found is None or not 1 <= int(found[1]) <= MOST_REQUESTS:
        fault = f"{value!r:.60} is no number of requests" if text else "it is blank"
        raise DataError(
            f"{column}: {fault}",
            f"a whole number from 1 to {MOST_REQUESTS:,}; if the column means something else, "
            'rename it, or in a source: columns = { count = "" }',
        )
    return int(found[1])


def require_sessions(rows: Sequence[tuple[str, str | None]], where: str) -> None:
    """Raise DataError where some rows name their session and others do not: no guess is right.

    rows: the id and session of each. where: what holds them, for the error.
    """
    without = [name for name, session in rows if session is None]
    if 0 < len(without) < len(rows):
        raise DataError(
            f"{where}: {len(without)} of {len(rows)} rows have no session, first {without[0]!r}",
            "name the session of every row (a request by itself has one of its own), or of none; "
            'in a source: columns = { session = "" }, or rows without in a source of their own',
        )


def joint_session(sessions: Collection[str | None]) -> str | None:
    """The session of requests that are counted as one row: theirs, or a name of all of them, which
    only a prompt that came in exactly the same sessions shares.
    """
    names = sorted({s for s in sessions if s is not None})
    if len(names) <= 1:
        return names[0] if names else None
    digest = hashlib.sha256("\n".join(names).encode("utf-8", "surrogatepass")).hexdigest()
    return f"{len(names)} sessions {digest[:_NAME_DIGITS]}"
