"""Venn-Abers predictors. Vovk and Petej 2014 (arXiv 1211.0025); in O(n log n) as in Vovk, Petej and
Fedorova 2015.

Written here, not taken from a package: what service needs is the two step functions, and those are
one short loop.
"""

from __future__ import annotations

import numpy as np

from demur.base.arrays import Bools, Doubles
from demur.core.maps.binary import VennAbers, expit

Corner = tuple[float, float]


def fit_venn_abers(log_odds_N: Doubles, event_N: Bools) -> VennAbers:
    """Fit both isotonic maps for every place that a new score can fall."""
    return venn_abers_of(expit(log_odds_N), event_N)


def venn_abers_of(p_N: Doubles, event_N: Bools) -> VennAbers:
    """Fit Venn-Abers on probabilities. Only the ends of plateaus are kept."""
    score_G, group_N = np.unique(p_N, return_inverse=True)
    rows_G = np.bincount(group_N).astype(np.float64)
    hits_G = np.bincount(group_N, weights=event_N).astype(np.float64)
    # p1: the new row counted as an event. p0: as a non-event, which is p1 of the mirrored problem
    p1_G = _upper(rows_G, hits_G)
    p0_G = 1.0 - _upper(rows_G[::-1], (rows_G - hits_G)[::-1])[::-1]
    rises1_G = np.append(p1_G[1:] != p1_G[:-1], True)
    rises0_G = np.append(True, p0_G[1:] != p0_G[:-1])
    return VennAbers(
        score0_J=tuple(score_G[rises0_G].tolist()),
        p0_J=tuple(p0_G[rises0_G].tolist()),
        score1_J=tuple(score_G[rises1_G].tolist()),
        p1_J=tuple(p1_G[rises1_G].tolist()),
    )


def _upper(rows_G: Doubles, hits_G: Doubles) -> Doubles:
    """Isotonic value of each group once a row with label 1 has joined it.

    Isotonic values are slopes of the greatest convex minorant of the cumulative (rows, hits)
    diagram. The extra row is a step of (1, 1), at first left of all groups; letting it pass group g
    moves the diagram's point g by (-1, -1). `corners` holds the minorant from the last corner left
    of the extra row on, leftmost on top.
    """
    sums = zip(np.cumsum(rows_G).tolist(), np.cumsum(hits_G).tolist(), strict=True)
    points: list[Corner] = [(-1.0, -1.0), (0.0, 0.0), *sums]
    corners: list[Corner] = []
    for point in reversed(points):
        _push(corners, point)
    value_G = np.empty(len(rows_G))
    for g, (rows, hits) in enumerate(points[2:]):
        (x0, y0), (x1, y1) = corners[-1], corners[-2]
        value_G[g] = (y1 - y0) / (x1 - x0)
        # the extra row passes group g: drop the corner it uncovers and put the moved point in its
        # place if it lies below the minorant
        moved = rows - 1.0, hits - 1.0
        if _turn(corners[-1], corners[-2], moved) < 0.0:
            corners.pop()
            _push(corners, moved)
    return value_G


def _push(corners: list[Corner], point: Corner) -> None:
    """Put a point left of all corners onto the minorant, dropping the corners that it hides."""
    while len(corners) > 1 and _turn(point, corners[-1], corners[-2]) <= 0.0:
        corners.pop()
    corners.append(point)


def _turn(a: Corner, b: Corner, c: Corner) -> float:
    """Above 0 where the way a, b, c turns left; exact, the coordinates are counts."""
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
