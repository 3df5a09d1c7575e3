"""Rows, and numbers of rows, by what ought to happen to them and what is decided: all that a goal
counts on.

Shapes: N rows, C columns (0 = respond, then one per category).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from demur.base.arrays import Ints


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Rows:
    """N rows, with what ought to happen to each."""

    label_N: Ints  # 0 = to be answered, k = to be refused with the k-th category
    heaviest_N: Ints  # column of the category that each would be refused with
    # of the categories, in order; empty where only "refused" and "answered" are told apart
    names: tuple[str, ...]

    def columns(self, categories: Sequence[str]) -> list[int]:
        """Columns of these categories, all known."""
        return [self.names.index(name) + 1 for name in categories]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Counts:
    """Numbers of rows under a policy."""

    rows_LC: Ints  # by label (what ought to happen) and by decision, shape (C, C)
    # of the categories, in order; empty where only "refused" and "answered" are told apart
    names: tuple[str, ...] = ()
    active: tuple[str, ...] = ()  # categories that the policy may refuse with
    # rows deferred, which rows_LC leaves out, by label and by category; None: nothing is deferred
    defer_LC: Ints | None = None

    def columns(self, names: Sequence[str]) -> list[int] | None:
        """Columns of these categories; None where one of them is not counted by itself."""
        if not set(names) <= set(self.names):
            return None
        return [self.names.index(name) + 1 for name in names]

    @property
    def total(self) -> int:
        """All rows."""
        return int(self.rows_LC.sum()) + self.deferred

    @property
    def deferred(self) -> int:
        """Rows deferred."""
        return 0 if self.defer_LC is None else int(self.defer_LC.sum())

    @property
    def caught(self) -> int:
        """Rows refused that were to be refused, with whatever category."""
        return int(self.rows_LC[1:, 1:].sum())

    @property
    def missed(self) -> int:
        """Rows answered that were to be refused."""
        return int(self.rows_LC[1:, 0].sum())

    @property
    def false(self) -> int:
        """Rows refused that were to be answered."""
        return int(self.rows_LC[0, 1:].sum())

    @property
    def answered(self) -> int:
        """Rows answered that were to be answered."""
        return int(self.rows_LC[0, 0])


def two_way(*, answered: int, false: int, missed: int, caught: int) -> Counts:
    """Counts that tell refused from answered only."""
    return Counts(rows_LC=np.array([[answered, false], [missed, caught]], dtype=np.int64))
