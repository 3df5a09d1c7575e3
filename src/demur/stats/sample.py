"""Choosing rows in ways that do not depend on how many other rows there are; dividing them between
what is taught by them and what is tested on them.

1. Units are divided as a whole: the rows of a group teach, or test. A promise by units counts those
   that test.
2. A row that stands for several requests would be in one part with all of them, as a popular prompt
   is a large part of traffic: a promise by requests would not see it, or see too much of it. So its
   requests are divided one by one, each to the tests with the same probability. A unit that teaches
   may so have requests that test: these count by requests alone.
3. The number of requests that test is drawn together with the part of the row's unit: its
   distribution is binomial, and a row of a unit that tests has at least one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from scipy.stats import binom

from demur.base.arrays import Bools, Doubles, Ints
from demur.base.text import uniform_of
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
        parts[0 if uniform_of(f"apart:{seed}:{name}") < share else 1].append(e)
    return parts


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class AskedRequests:
    """The requests of N rows that test, and the rows whose units teach."""

    count_N: Ints  # at least 1 where the unit tests
    taught_N: Bools


@dataclass(frozen=True, kw_only=True, slots=True)
class DividedRows:
    """Rows that teach a calibrator, and rows that are left for promises."""

    own: Sequence[Example]
    left: Sequence[Example]
    taught: frozenset[str]  # ids of rows left whose units teach


def whole(rows: Sequence[Example]) -> DividedRows:
    """All rows left, none to teach."""
    return DividedRows(own=(), left=rows, taught=frozenset())


def asked_requests(count_N: Ints, taught_N: Bools, share: float, uniform_N: Doubles) -> Ints:
    """How many of the requests of each row test. share: of requests that do, and of units;
    uniform_N: numbers in [0, 1), one a row, independent of the parts of units.
    """
    # B(k): binomial of count and share. None(count) = B(0). With P(k | the unit tests) = B(k) given
    # k >= 1, and P(0 | it teaches) = (1 - share)^(count - 1), else the same, P(k) = B(k).
    # A row of one request goes where its unit goes; the others are the M below.
    asked_N, row_M = np.where(taught_N, 0, 1), np.flatnonzero(count_N > 1)
    count_M, taught_M, uniform_M = count_N[row_M], taught_N[row_M], uniform_N[row_M]
    none_M = (1.0 - share) ** (count_M - 1.0)
    at_M = np.where(taught_M, (uniform_M - none_M) / np.maximum(1.0 - none_M, 1e-12), uniform_M)
    zero_M = (1.0 - share) ** count_M
    drawn_M = binom.ppf(zero_M + np.clip(at_M, 1e-12, 1.0) * (1.0 - zero_M), count_M, share)
    skipped_M = taught_M & (uniform_M < none_M)
    asked_N[row_M] = np.where(skipped_M, 0, np.clip(drawn_M, 1, count_M))
    return asked_N


def divide_rows(rows: Sequence[Example], share: float, seed: int) -> DividedRows:
    """Divide rows between a calibrator, which gets about `share` of them, and promises. More rows
    move none of the others.
    """
    fitted = {e.id for e in split_by_group(rows, share, seed)[0]}
    taught_N = np.array([e.id in fitted for e in rows], dtype=bool)
    count_N = np.array([e.count for e in rows], dtype=np.int64)
    uniform_N = np.array([uniform_of(f"requests:{seed}:{e.id}") for e in rows], dtype=np.float64)
    asked = asked_requests(count_N, taught_N, 1.0 - share, uniform_N).tolist()
    return DividedRows(
        own=[
            replace(e, count=e.count - n)
            for e, n in zip(rows, asked, strict=True)
            if e.id in fitted and e.count > n
        ],
        left=[replace(e, count=n) for e, n in zip(rows, asked, strict=True) if n],
        taught=frozenset(e.id for e, n in zip(rows, asked, strict=True) if n and e.id in fitted),
    )
