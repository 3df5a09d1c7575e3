"""Hints for unknown names: the nearest known one, else all of them."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def suggest(name: str, known: Iterable[str], otherwise: str | None = None) -> str:
    """Name the known name that is spelled most like `name`, whatever its case, for an error's hint.

    otherwise: the hint where none is alike; None: all known names.
    """
    names = list(known)
    by_folded = {n.casefold(): n for n in names}
    close = get_close_matches(name.casefold(), by_folded, n=1)
    if close:
        return f"did you mean {by_folded[close[0]]!r}?"
    return f"known: {', '.join(names) or 'none'}" if otherwise is None else otherwise
