"""Which rows, without a draw that depends on the others."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TypeVar

from demur.core.example import Example

Row = TypeVar("Row")


def evenly_spaced(rows: Sequence[Row], limit: int | None) -> list[Row]:
    """At most `limit` of the rows, in even steps: rows stored source by source all keep their
    share.
    """
    if limit is None or limit >= len(rows):
        return list(rows)
    return [rows[n * len(rows) // limit] for n in range(limit)]


def power_allocation(sizes: Sequence[int], weights: Sequence[float], total: int) -> list[int]:
    """How many of `total` to draw from each stratum: by the square root of its weight, so that
    small ones are seen too.

    Between the two of Neyman's allocation and an even one (power allocation, Bankier 1988). Never
    more than there are, 2 at least where there are so many: one row alone shows no spread.
    """
    left = {n for n, size in enumerate(sizes) if size}
    drawn = [0] * len(sizes)
    while left:
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
    """(about `share` of the rows, the others), in order. Rows of one group stay together; more rows
    move none.
    """
    first = [
        _uniform(seed, f"group {e.group}" if e.group is not None else f"row {e.id}") < share
        for e in rows
    ]
    return [e for e, f in zip(rows, first, strict=True) if f], [
        e for e, f in zip(rows, first, strict=True) if not f
    ]


def _uniform(seed: int, name: str) -> float:
    """A number in [0, 1) that depends on nothing but seed and name; others than those that split
    the data.
    """
    return (
        int.from_bytes(hashlib.sha256(f"apart:{seed}:{name}".encode()).digest()[:7], "big") / 2**56
    )
