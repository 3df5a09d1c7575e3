"""Choosing rows in ways that do not depend on how many other rows there are."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TypeVar

from demur.core.example import Example

AnyRow = TypeVar("AnyRow")


def evenly_spaced(rows: Sequence[AnyRow], limit: int | None) -> list[AnyRow]:
    """Choose at most `limit` of the rows, in even steps: rows stored source by source all keep
    their share.
    """
    if limit is None or limit >= len(rows):
        return list(rows)
    return [rows[n * len(rows) // limit] for n in range(limit)]


def power_allocation(sizes: Sequence[int], weights: Sequence[float], total: int) -> list[int]:
    """Allocate `total` draws to strata by the square root of their weights, so that small ones are
    seen too.

    Between Neyman's allocation and an even one (power allocation, Bankier 1988). Never more than a
    stratum has, 2 at least where it has so many: one row alone shows no spread.
    """
    left = {n for n, size in enumerate(sizes) if size}
    drawn = [0] * len(sizes)
    while left:
        # Strata that would get more than they have are taken whole; what they leave is shared again
        # among the others, until none is full.
        rest, roots = total - sum(drawn), sum(weights[n] ** 0.5 for n in left)
        wanted = {n: max(2.0, rest * weights[n] ** 0.5 / roots) for n in left}
        full = {n for n in left if wanted[n] >= sizes[n]}
        for n in full or left:
            drawn[n] = sizes[n] if n in full else round(wanted[n])
        left = left - full if full else set()
    return drawn


def split_by_group(
    rows: Sequence[Example], share: float, seed: int
) -> tuple[list[Example], list[Example]]:
    """Split rows into (about `share` of them, the others), in order. Rows of one group stay
    together; more rows move none.
    """
    parts: tuple[list[Example], list[Example]] = ([], [])
    for e in rows:
        # a hash of seed and group alone, other than the one that splits the data: adding rows
        # changes the side of none
        name = f"group {e.group}" if e.group is not None else f"row {e.id}"
        digest = hashlib.sha256(f"apart:{seed}:{name}".encode()).digest()
        uniform = int.from_bytes(digest[:7], "big") / 2**56
        parts[0 if uniform < share else 1].append(e)
    return parts
