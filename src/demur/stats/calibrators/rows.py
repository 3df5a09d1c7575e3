"""The rows that every family is fitted on, the record of a fit, and cross-validation folds.

Shapes: N rows, C control tokens (column 0 = respond).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from demur.base.arrays import Doubles, Ints
from demur.base.errors import DataError
from demur.core.calibrator import Map, check_columns, closed
from demur.core.taxonomy import Taxonomy
from demur.stats.labelled import LabelledScores

FEWEST_ROWS = 20  # below, even one parameter is noise


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FitRows:
    """Closed log-probabilities beside labels.

    Raises DataError on fewer than 20 rows, or when all rows have the same label.
    """

    closed_NC: Doubles  # natural log, rows sum to 1
    label_N: Ints  # columns
    group_N: Ints  # rows made from one another share a number; folds never part them
    choices: tuple[str, ...]  # names of the columns: "respond", then the categories

    def __post_init__(self) -> None:
        rows = len(self.label_N)
        if rows < FEWEST_ROWS:
            raise DataError(
                f"{rows} rows are too few to fit a calibrator",
                f"give at least {FEWEST_ROWS}, a quarter more where folds are held out",
            )
        if (self.label_N == self.label_N[0]).all():
            raise DataError(
                f"all {rows} rows have label {self.choices[self.label_N[0]]!r}: a calibrator "
                "needs at least two labels",
                "add rows to be answered and rows to be refused",
            )

    def take(self, at: Ints) -> FitRows:
        """Some of the rows. Raises DataError as above."""
        return replace(
            self, closed_NC=self.closed_NC[at], label_N=self.label_N[at], group_N=self.group_N[at]
        )

    def require_every_label(self) -> None:
        """Raise DataError, naming the missing ones, unless every column is the label of some
        row.
        """
        counts = np.bincount(self.label_N, minlength=len(self.choices))
        missing = [name for name, count in zip(self.choices, counts, strict=True) if count == 0]
        if missing:
            raise DataError(
                f"none of {len(self.label_N)} rows has label {', '.join(map(repr, missing))}, "
                "and this calibrator has parameters for every control token",
                "add such rows to the split, or use temperature or h-linear-16",
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class FittedMap:
    """A fitted map, and what its reader should know."""

    map: Map
    notes: tuple[str, ...] = ()  # a parameter at its bound, a reversed slope, ...


def fit_rows(
    rows: LabelledScores, taxonomy: Taxonomy, groups: Sequence[str | None] | None = None
) -> FitRows:
    """Make scored, labelled rows ready for fitting. groups: for each row its Example.group; None: a
    group of its own.

    Raises ScoreError if the scores are of another taxonomy, DataError as FitRows does or on another
    number of groups.
    """
    check_columns(taxonomy.tokens, rows.table.logp_NC)
    ids = rows.table.ids
    if groups is not None and len(groups) != len(ids):
        raise DataError(
            f"{len(groups)} groups for {len(ids)} rows", "give one group (or None) a row"
        )
    keys = [
        ("row", i) if g is None else ("group", g)
        for g, i in zip(groups or [None] * len(ids), ids, strict=True)
    ]
    number = {key: n for n, key in enumerate(dict.fromkeys(keys))}
    return FitRows(
        closed_NC=closed(rows.table.logp_NC),
        label_N=rows.label_N,
        group_N=np.array([number[key] for key in keys], dtype=np.int64),
        choices=taxonomy.choices,
    )


def folds(rows: FitRows, count: int, seed: int) -> Iterator[tuple[Ints, Ints]]:
    """(fit, held out) row numbers of each fold: groups stay whole, their labels are dealt evenly.

    Raises DataError when there are fewer groups than folds.
    """
    group_G, first_G, at_N = np.unique(rows.group_N, return_index=True, return_inverse=True)
    if len(group_G) < count:
        raise DataError(
            f"{len(group_G)} groups cannot fill {count} folds",
            "give more rows that are independent",
        )
    # Shuffle, sort by label (stably, so still shuffled within one), deal round the folds: each fold
    # has each label's share. A group is dealt by the label of its first row.
    shuffled_G = np.random.default_rng(seed).permutation(len(group_G))
    by_label_G = shuffled_G[np.argsort(rows.label_N[first_G][shuffled_G], kind="stable")]
    fold_G = np.empty(len(group_G), dtype=np.int64)
    fold_G[by_label_G] = np.arange(len(group_G)) % count
    fold_N = fold_G[at_N]
    for fold in range(count):
        yield np.flatnonzero(fold_N != fold), np.flatnonzero(fold_N == fold)
