"""How sure a calibration error is: a bootstrap interval around it.

Shapes: G groups (or single rows), R resamples, B cells.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.stats import t as student

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
    """Interval of the true binned error by a bootstrap, cells held fixed; at least 0.

    group_N: equal numbers for rows that belong together (families of prompts), in the order that
    the view was made from; whole groups are drawn. Binned errors are biased upwards. So the upper
    end is the error and a normal deviation of it, and the lower end the error less the quantile of
    the noise's own norm, by the triangle inequality: each errs on the careful side, and perfect
    calibration is not excluded by its own noise. O(draws x groups). Raises DataError if groups do
    not match.
    """
    sums_GB3 = _by_group(view, c, group_N)
    groups, bins = sums_GB3.shape[:2]
    rng = np.random.default_rng(resampling.seed)
    size = max(1, _AT_ONCE // groups)
    errors, noises = list[Doubles](), list[Doubles]()
    own_B3 = sums_GB3.sum(axis=0)
    for start in range(0, resampling.draws, size):
        draws = min(size, resampling.draws - start)
        # drawing G groups with replacement = multinomial counts; cells stay fixed, so one matrix
        # product with the groups' sums gives the cell sums of every resample
        weight_RG = rng.multinomial(groups, np.full(groups, 1.0 / groups), size=draws).astype(
            np.float64
        )
        sums_RB3 = (weight_RG @ sums_GB3.reshape(groups, -1)).reshape(draws, bins, 3)
        errors.append(_norms(sums_RB3[..., 0], _gaps(sums_RB3), norm))
        noises.append(_norms(sums_RB3[..., 0], _gaps(sums_RB3) - _gaps(own_B3), norm))
    tail = (1.0 - resampling.confidence) / 2.0
    # Student's t: the deviation is that of so many groups
    far = float(student.ppf(1.0 - tail, max(groups - 1, 1))) * float(np.concatenate(errors).std())
    noise = float(np.quantile(np.concatenate(noises), 1.0 - tail))
    error = c.error(norm)
    return max(error - noise, 0.0), error + far


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


def _gaps(sums_RB3: Doubles) -> Doubles:
    """Mean probability less the share of events of each cell; 0 where no row is."""
    gap = sums_RB3[..., 1] - sums_RB3[..., 2]
    return np.asarray(gap / np.maximum(sums_RB3[..., 0], 1.0))


def _norms(count_RB: Doubles, gap_RB: Doubles, norm: Norm) -> Doubles:
    """The norm of the gaps, cells weighed by their rows."""
    if norm == "max":
        return np.asarray(np.abs(gap_RB).max(axis=1))
    share_RB = count_RB / count_RB.sum(axis=1, keepdims=True)
    if norm == "l1":
        return np.asarray((share_RB * np.abs(gap_RB)).sum(axis=1))
    return np.asarray(np.sqrt((share_RB * gap_RB**2).sum(axis=1)))
