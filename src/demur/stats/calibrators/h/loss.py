"""The h-calibration objective and its gradient: how far each local window of events is from its
predicted mean.

All N x C class events are sorted by predicted probability; in every window of neighbours the mean
of (predicted - occurred) must stay within a tolerance. The loss is a weighted mean of the excess;
order, clusters and weights are constants to the gradient. Source: the definition in code of
h-Calibration (Huang et al.), reproduced to 2e-6. Shapes: E = N x C events, j positions in sorted
order, M window (even), B = 15 bins or clusters.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from demur.base.arrays import Doubles, Ints
from demur.base.errors import ConfigError

Weighting = Literal["unweighted", "cluACE", "cluECE", "ACE", "ECE", "density", "distance"]

BINS = 15
_LLOYD_STEPS = 25
_SMALL = 1e-5  # added to a cluster's size, as published


@dataclass(frozen=True, kw_only=True, slots=True)
class HLoss:
    """Settings of the objective, with the published defaults; pooled, unlike most published runs.

    Leaving each class out in turn is not minimised by a calibrated model when classes are unequal
    (specs, measured). Raises ConfigError on an odd window or a negative tolerance.
    """

    window: int = 200  # M: a window holds M + 1 events
    tolerance: float = 1e-20
    weighting: Weighting = "cluACE"
    leave_one_class_out: bool = False

    def __post_init__(self) -> None:
        if self.window < 2 or self.window % 2:
            raise ConfigError(
                f"h-calibration window {self.window} is not an even number above 0",
                "the default is 200",
            )
        if not self.tolerance >= 0:
            raise ConfigError(
                f"h-calibration tolerance {self.tolerance} is below 0", "the default is 1e-20"
            )


def h_loss(q_NC: Doubles, label_N: Ints, settings: HLoss) -> tuple[float, Doubles]:
    """The h-calibration loss of calibrated probabilities, and its gradient by them, (N, C)."""
    if not settings.leave_one_class_out:
        return _pooled(q_NC, label_N, settings)
    columns = q_NC.shape[1]
    total, gradient_NC = 0.0, np.zeros_like(q_NC)
    for column in range(columns):
        others_N = label_N != column
        loss, part_NC = _pooled(q_NC[others_N], label_N[others_N], settings)
        total += loss / columns
        gradient_NC[others_N] += part_NC / columns
    return total, gradient_NC


def gaps(q_NC: Doubles, label_N: Ints, window: int) -> tuple[Doubles, Ints]:
    """Gaps T_j, the mean of (predicted - occurred) over the window around each sorted event, and
    the sorting order.

    Windows that reach over an end keep their divisor, so gaps there shrink.
    """
    difference_E = q_NC.copy()
    difference_E[np.arange(len(label_N)), label_N] -= 1.0
    order_E = np.argsort(q_NC.ravel(), kind="stable")
    return _window_sums(difference_E.ravel()[order_E], window) / (window + 1), order_E


def _pooled(q_NC: Doubles, label_N: Ints, settings: HLoss) -> tuple[float, Doubles]:
    # the transpose of a window mean over sorted events is a window mean again: the gradient sums
    # each event's weight over the windows that hold it
    gap_E, order_E = gaps(q_NC, label_N, settings.window)
    weight_E = event_weights(q_NC.ravel()[order_E], q_NC.max(axis=1), settings)
    excess_E = np.maximum(np.abs(gap_E) - settings.tolerance, 0.0)
    by_gap_E = weight_E * np.sign(gap_E) * (excess_E > 0.0)
    gradient_E = np.empty(q_NC.size)
    gradient_E[order_E] = _window_sums(by_gap_E, settings.window) / (settings.window + 1)
    return float(weight_E @ excess_E), gradient_E.reshape(q_NC.shape)


def event_weights(p_E: Doubles, top_N: Doubles, settings: HLoss) -> Doubles:
    """The weight of each sorted event's excess in the loss. p_E: probabilities, ascending. top_N:
    each row's largest.
    """
    match settings.weighting:
        case "unweighted":
            return np.full(len(p_E), 1.0 / len(p_E))
        case "cluACE" | "cluECE":
            edge_B = _cluster_edges(p_E)
            size_B = np.diff(np.searchsorted(p_E, edge_B, side="left"), prepend=0, append=len(p_E))
            share_B = np.bincount(
                np.searchsorted(edge_B, top_N, side="right"), minlength=BINS
            ) / len(top_N)
            # ECE-like: a cluster counts by the share of rows whose top probability falls into it;
            # ACE-like: all clusters alike
            each_B = share_B if settings.weighting == "cluECE" else np.full(BINS, 1.0 / BINS)
            return cluster_weights(size_B, each_B)
        case "ACE" | "ECE":
            return _bin_weights(p_E, top_N if settings.weighting == "ECE" else None)
        case "density":
            # the width in probability of each window, ends repeated: sparse stretches count more
            half = settings.window // 2
            padded = np.pad(p_E, half, mode="edge")
            return (padded[2 * half :] - padded[: -2 * half]) / settings.window
        case "distance":
            return _distances(p_E, settings.window)


def cluster_weights(size_B: Ints, each_B: Doubles) -> Doubles:
    """Weights of sorted events that make the excess a sum over clusters of `each` times the
    cluster's mean.
    """
    return np.repeat(each_B / (size_B + _SMALL), size_B)


def _window_sums(value_E: Doubles, window: int) -> Doubles:
    """Sum over the window + 1 positions centred at each, zeros beyond the ends."""
    total = np.concatenate([[0.0], np.cumsum(value_E)])
    at = np.arange(len(value_E))
    last, first = np.minimum(at + window // 2 + 1, len(value_E)), np.maximum(at - window // 2, 0)
    sum_E: Doubles = total[last] - total[first]
    return sum_E


def _cluster_edges(p_E: Doubles) -> Doubles:
    """Borders between 15 clusters of sorted probabilities: Lloyd's algorithm from the
    mid-quantiles, deterministic.
    """
    total = np.concatenate([[0.0], np.cumsum(p_E)])
    centre_B = p_E[((np.arange(BINS) + 0.5) / BINS * len(p_E)).astype(np.int64)]
    for _ in range(_LLOYD_STEPS):
        # Lloyd: assign to the nearest centre (sorted, so borders are midpoints), move to the mean
        border = np.searchsorted(p_E, (centre_B[1:] + centre_B[:-1]) / 2.0, side="left")
        size_B = np.diff(border, prepend=0, append=len(p_E))
        sum_B = np.diff(total[border], prepend=0.0, append=total[-1])
        # An empty cluster stays where it is. Sorted: rounding may reverse the centres of tied
        # probabilities.
        moved_B = np.sort(np.where(size_B > 0, sum_B / np.maximum(size_B, 1), centre_B))
        if np.array_equal(moved_B, centre_B):
            break
        centre_B = moved_B
    edge_B: Doubles = (centre_B[1:] + centre_B[:-1]) / 2.0
    return edge_B


def _bin_weights(p_E: Doubles, top_N: Doubles | None) -> Doubles:
    """Mean over 15 equal-width bins, both edges inclusive, empty ones 0; with top_N each times its
    share of them.
    """
    weight_E = np.zeros(len(p_E))
    for low, high in pairwise(np.linspace(0.0, 1.0, BINS + 1)):
        first, last = (
            np.searchsorted(p_E, low, side="left"),
            np.searchsorted(p_E, high, side="right"),
        )
        share = 1.0 if top_N is None else float(((top_N >= low) & (top_N <= high)).mean())
        if last > first:
            weight_E[first:last] += share / BINS / (last - first)
    return weight_E


def _distances(p_E: Doubles, window: int) -> Doubles:
    """Mean absolute distance of each sorted probability to the others in its window, which stops at
    the ends.
    """
    at = np.arange(len(p_E))
    first, last = np.maximum(at - window // 2, 0), np.minimum(at + window // 2 + 1, len(p_E))
    total = np.concatenate([[0.0], np.cumsum(p_E)])
    # sums of (p_i - p_j) above and of (p_j - p_i) below within the window, from prefix sums
    above = total[last] - total[at + 1] - (last - at - 1) * p_E
    below = (at - first) * p_E - (total[at] - total[first])
    distance_E: Doubles = (above + below) / (last - first - 1)
    return distance_E
