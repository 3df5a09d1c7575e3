"""Fewer rows, without a draw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

Row = TypeVar("Row")


def evenly(rows: Sequence[Row], limit: int | None) -> list[Row]:
    """At most `limit` of the rows, in even steps: rows stored source by source all keep their share."""
    if limit is None or limit >= len(rows):
        return list(rows)
    return [rows[n * len(rows) // limit] for n in range(limit)]
