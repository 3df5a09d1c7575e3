"""How sure a calibration error is: a bootstrap interval around it.

Shapes: G groups (or single rows), R resamples, B cells.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from demur.base.arrays import Doubles
from demur.base.errors import DataError
from demur.stats.calibration.binned import Cells, Norm
from demur.stats.calibration.views import BinaryView
from demur.stats.points import Resampling

_AT_ONCE = 2**22  # weights drawn at once: 32 MiB


def error_interval(
    view: BinaryView,
    c: Cells,
    norm: Norm,
    resampling: Resampling,
    group_N: npt.NDArray[np.int64] | None = None,
) -> tuple[float, float]:
    """Basic bootstrap interval of a binned error, cells held fixed; at least 0.

    group_N: equal numbers for rows that belong together (families of prompts), in the order that
    the view was made from; whole groups are drawn. Binned errors are biased upwards, so percentile
    intervals would exclude small true errors; the basic interval turns the bias round. O(draws x
    groups). Raises DataError if groups do not match.
    """
    sums_GB3 = _by_group(view, c, group_N)
    groups, bins = sums_GB3.shape[:2]
    rng = np.random.default_rng(resampling.seed)
    size, drawn = max(1, _AT_ONCE // groups), list[Doubles]()
    for start in range(0, resampling.draws, size):
        draws = min(size, resampling.draws - start)
        # drawing G groups with replacement = multinomial counts; cells stay fixed, so one matrix
        # product with the groups' sums gives the cell sums of every resample
        weight_RG = rng.multinomial(groups, np.full(groups, 1.0 / groups), size=draws).astype(
            np.float64
        )
        drawn.append(
            _errors((weight_RG @ sums_GB3.reshape(groups, -1)).reshape(draws, bins, 3), norm)
        )
    half = (1.0 - resampling.confidence) / 2.0
    low, high = np.quantile(np.concatenate(drawn), [half, 1.0 - half])
    # basic interval [2 e - q_high, 2 e - q_low] (Davison and Hinkley 1997, section 5.2)
    twice = 2.0 * c.error(norm)
    return max(float(twice - high), 0.0), max(float(twice - low), 0.0)


def _by_group(view: BinaryView, c: Cells, group_N: npt.NDArray[np.int64] | None) -> Doubles:
    """(rows, sum of probabilities, sum of events) per group and cell, shape (G, B, 3)."""
    if group_N is not None and group_N.shape != (view.rows,):
        raise DataError(
            f"groups of shape {group_N.shape} for {view.rows} rows", "give one group a row"
        )
    if group_N is None:
        groups, sorted_group_N = view.rows, np.arange(view.rows)
    else:
        names, at_N = np.unique(group_N, return_inverse=True)
        groups, sorted_group_N = len(names), at_N[view.order_N]
    # the cell of each sorted row; rows outside all cells are left out
    cell_N = np.searchsorted(c.cut_J, np.arange(view.rows), side="right") - 1
    used_N = (cell_N >= 0) & (cell_N < len(c.count_B))
    sums = np.zeros((groups, len(c.count_B), 3))
    value_N3 = np.stack([np.ones(view.rows), view.p_N, view.event_N], axis=1)
    np.add.at(sums, (sorted_group_N[used_N], cell_N[used_N]), value_N3[used_N])
    return sums


def _errors(sums_RB3: Doubles, norm: Norm) -> Doubles:
    count_RB, excess_RB = sums_RB3[..., 0], np.abs(sums_RB3[..., 1] - sums_RB3[..., 2])
    rows_R = count_RB.sum(axis=1)
    if norm == "l1":
        return np.asarray(excess_RB.sum(axis=1) / rows_R)
    gap_RB = excess_RB / np.maximum(count_RB, 1.0)  # a cell without rows has no excess
    if norm == "max":
        return np.asarray(gap_RB.max(axis=1))
    return np.asarray(np.sqrt((gap_RB**2 * count_RB).sum(axis=1) / rows_R))
