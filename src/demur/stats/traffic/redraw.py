"""Rows drawn anew, so that they are a plain sample of traffic: an exact test, where slices have the
rows for it.

1. A mix within the bounds has at least its lower bound of each slice; the rest, 1 less their sum,
   is mixed in some way that is not known.
2. Of so many draws each takes a slice by the lower bounds, or is one of the rest. A draw takes the
   next row of its slice, in an order that a seed fixes, so that no row is taken twice.
3. If the rest came from the slice with the highest rate, the errors would be binomial with a rate
   no lower than that of the mix. Which slice that is nobody knows: whichever the rest is taken
   from, so few errors must be seen (intersection-union).

So many draws are made as the scarcest slice has rows for. It is rejection sampling by importance
weights within bounds (arXiv 2106.09848), without rejected rows. Shapes: N rows, M rows that a goal
speaks of, S slices, D draws.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from demur.base.arrays import Bools, Doubles, Ints

_SEED = 0x7AFF1C  # of the draws, and of the order of the rows of a slice
_ROOM = 2.0  # standard deviations of a slice's draws that it has rows for


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Redrawn:
    """Rows drawn by a mix within bounds."""

    draws: int
    known_D: Ints  # rows that are drawn whatever the mix
    rest: tuple[Ints, ...]  # of each slice the rows that are drawn if the rest is of it
    missing: tuple[int, ...]  # draws beyond the rows of a slice, if the rest is of this one

    def worst(self, error_N: Bools) -> int:
        """The most errors, from whichever slice the rest is drawn. A draw without a row is one."""
        known = int(error_N[self.known_D].sum())
        return known + max(
            int(error_N[row_D].sum()) + missing
            for row_D, missing in zip(self.rest, self.missing, strict=True)
        )


def redrawn(row_M: Ints, slice_M: Ints, low_S: Doubles) -> Redrawn | None:
    """Draw rows anew by the lower bounds of their slices' shares; None where there are no rows to
    draw.

    row_M: independent rows of one request each, with their slices. The bounds must not depend on
    their errors and scores.
    """
    left = max(1.0 - float(low_S.sum()), 0.0)
    # At most this share of draws is of one slice.
    most_S = np.minimum(low_S + left, 1.0)
    rows_S = np.bincount(slice_M, minlength=len(low_S))
    draws = min(
        _draws_within(rows, share)
        for rows, share in zip(rows_S.tolist(), most_S.tolist(), strict=True)
    )
    if draws < 1:
        return None
    rng = np.random.default_rng(_SEED)
    slice_D = np.searchsorted(np.cumsum(low_S), rng.random(draws), side="right")
    known_S = np.bincount(slice_D, minlength=len(low_S) + 1)[: len(low_S)]
    others = draws - int(known_S.sum())
    order_M = rng.permutation(len(row_M))
    known, rest, short = [], [], []
    for s, drawn in enumerate(known_S.tolist()):
        own = row_M[order_M[slice_M[order_M] == s]]
        known.append(own[:drawn])
        rest.append(own[drawn : drawn + others])
        short.append((max(drawn - len(own), 0), max(drawn + others - len(own), 0)))
    lacking = sum(known_short for known_short, _ in short)
    return Redrawn(
        draws=draws,
        known_D=np.concatenate(known),
        rest=tuple(rest),
        missing=tuple(lacking - own + whole for own, whole in short),
    )


def _draws_within(rows: int, share: float) -> int:
    """The draws of which a slice with this share takes no more than its rows, nearly surely."""
    if share <= 0.0:
        return 2**62
    # draws * share + room * sqrt(draws * share * (1 - share)) = rows, a square of sqrt(draws)
    spread = _ROOM * math.sqrt(share * (1.0 - share))
    root = (math.sqrt(spread**2 + 4.0 * share * rows) - spread) / (2.0 * share)
    return int(root**2)
