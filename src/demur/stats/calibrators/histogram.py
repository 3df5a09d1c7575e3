"""Histogram binning: the share of events in each bin of probability. Zadrozny and Elkan 2001."""

from __future__ import annotations

from typing import Literal

import numpy as np

from demur.base.arrays import Bools, Doubles
from demur.core.maps.binary import Histogram, expit
from demur.stats.calibrators.one_vs_rest import shrunk

BinEdges = Literal["width", "mass"]
BINS = 10


def fit_histogram(
    log_odds_N: Doubles, event_N: Bools, edges: BinEdges = "mass", shrink: float = 1.0
) -> Histogram:
    """Fit histogram binning with ten bins of equal width or mass.

    Refusal scores crowd at 0 and 1, where equal widths see one bin: hence mass.
    """
    return histogram_of(expit(log_odds_N), event_N, edges, shrink)


def histogram_of(p_N: Doubles, event_N: Bools, edges: BinEdges, shrink: float) -> Histogram:
    """Fit histogram binning on probabilities. An empty bin gets its midpoint."""
    edge_J = np.linspace(0.0, 1.0, BINS + 1)[1:-1] if edges == "width" else _mass_edges(p_N)
    bin_N = np.searchsorted(edge_J, p_N, side="left")
    rows_B = np.bincount(bin_N, minlength=len(edge_J) + 1).astype(np.float64)
    hits_B = np.bincount(bin_N, weights=event_N, minlength=len(edge_J) + 1)
    all_edges = np.concatenate([[0.0], edge_J, [1.0]])
    middle_B = (all_edges[1:] + all_edges[:-1]) / 2.0
    mean_B = np.divide(hits_B, rows_B, out=middle_B.copy(), where=rows_B > 0)
    value_B = np.where(
        rows_B > 0, shrunk(mean_B, np.maximum(rows_B, 1.0), float(event_N.mean()), shrink), middle_B
    )
    return Histogram(edge_J=tuple(edge_J.tolist()), value_B=tuple(value_B.tolist()))


def _mass_edges(p_N: Doubles) -> Doubles:
    """Inner edges at the scores that end each tenth of the rows; tied scores share a bin."""
    ordered_N = np.sort(p_N)
    ends = np.arange(1, BINS) * len(p_N) // BINS - 1
    edge_J: Doubles = np.unique(ordered_N[np.maximum(ends, 0)])
    inner_J: Doubles = edge_J[edge_J < ordered_N[-1]]
    return inner_J
