"""Errors of calibration averaged over the control tokens. Small classes are mostly noise: look at each one too."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from demur.stats.calibration.binned import Norm, Scheme, cells, cells_at
from demur.stats.calibration.views import View

TACE_CUT = 1e-3  # Nixon et al. 2019 (arXiv 1904.01685)


def class_errors(classes: Sequence[View], scheme: Scheme, bins: int, norm: Norm = "l1") -> tuple[float, ...]:
    """The binned error of each class. Their mean (or sum) is the class-wise error."""
    return tuple(cells(v, scheme, bins).error(norm) for v in classes)


def class_wise(classes: Sequence[View], scheme: Scheme, bins: int, norm: Norm = "l1") -> float:
    """Mean over the classes of their binned errors."""
    return float(np.mean(class_errors(classes, scheme, bins, norm)))


def adaptive(classes: Sequence[View], ranges: int = 15) -> float:
    """Nixon's adaptive calibration error: mean absolute gap over classes and equal-mass cells (not netcal's ACE)."""
    return thresholded_adaptive(classes, ranges, cut=0.0)


def thresholded_adaptive(classes: Sequence[View], ranges: int = 15, cut: float = TACE_CUT) -> float:
    """TACE: as `adaptive`, on the rows of each class with probability >= cut. A class without such rows counts 0."""
    return float(np.mean([_mean_gap(v, ranges, int(np.searchsorted(v.p_N, cut, side="left"))) for v in classes]))


def thresholded(classes: Sequence[View], bins: int = 15) -> float:
    """Class-wise error over rows with probability > 1 / C, equal width, weighted by the rows kept (h-calibration)."""
    return float(np.mean([_kept_error(v, bins, 1.0 / len(classes)) for v in classes]))


def _mean_gap(view: View, ranges: int, first: int) -> float:
    kept = view.rows - first
    if kept == 0:
        return 0.0
    c = cells_at(view, first - (-np.arange(ranges + 1) * kept // ranges))
    filled_B = c.count_B > 0
    return float(np.abs((c.p_B - c.event_B)[filled_B] / c.count_B[filled_B]).sum() / ranges)


def _kept_error(view: View, bins: int, cut: float) -> float:
    first = int(np.searchsorted(view.p_N, cut, side="right"))
    if first == view.rows:
        return 0.0
    c = cells_at(view, np.maximum(cells(view, "width", bins).cut_J, first))
    return c.error() * c.rows / (view.rows - first)
