"""Errors of calibration over cells of probability: one table of counts gives them all.

Shapes: N rows, B cells. A gap is mean probability minus frequency of the event in a cell; cells
without rows count nowhere. Binned errors of a perfectly calibrated forecast are not 0 but about
sqrt(B / N): `debiased_l1` takes that off.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import erf

from demur.base.arrays import Doubles, Ints
from demur.stats.calibration.views import BinaryView

Scheme = Literal["width", "mass", "mass_whole_ties"]
Norm = Literal["l1", "l2", "max"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Cells:
    """B cells of sorted rows. Weights are shares of all N rows of the view."""

    rows: int  # N
    cut_J: Ints  # B + 1 prefix lengths; cell b holds the sorted rows cut_J[b] to cut_J[b + 1] - 1
    count_B: Ints
    p_B: Doubles  # sums of probabilities
    event_B: Doubles  # sums of events

    def error(self, norm: Norm = "l1") -> float:
        """l1: expected calibration error. l2: root of the mean squared gap. max: MCE, which tends
        to 1 as B grows.
        """
        if norm == "l1":
            return float(np.abs(self.p_B - self.event_B).sum() / self.rows)
        # cells that have rows: the others have no gap
        filled_B = self.count_B > 0
        count_B = self.count_B[filled_B]
        gap_B = (self.p_B[filled_B] - self.event_B[filled_B]) / count_B
        weight_B = count_B / self.rows
        return float(np.sqrt((weight_B * gap_B**2).sum()) if norm == "l2" else np.abs(gap_B).max())

    def debiased_l1(self) -> float:
        """The l1 error minus its excess under Gaussian noise in each cell; may be negative. Cells
        of 1 row count 0.

        Kumar, Liang and Ma 2019 (arXiv 1909.10155), section 4.
        """
        # one row alone has a frequency of 0 or 1, and no estimate of its noise
        usable_B = self.count_B >= 2
        n_B, p_B, event_B = self.count_B[usable_B], self.p_B[usable_B], self.event_B[usable_B]
        frequency_B = event_B / n_B
        gap_B = np.abs(p_B / n_B - frequency_B)
        sd_B = np.sqrt(frequency_B * (1.0 - frequency_B) / n_B)
        # E |N(m, s^2)|, the mean of a folded normal: how large the gap m looks under noise s.
        # Where every event of a cell is alike, s is 0 and the gap counts as it is.
        noisy_B = gap_B.copy()
        uncertain_B = sd_B > 0
        m, s = gap_B[uncertain_B], sd_B[uncertain_B]
        folded = s * math.sqrt(2 / math.pi) * np.exp(-(m**2) / (2 * s**2)) + m * erf(
            m / (s * math.sqrt(2))
        )
        noisy_B[uncertain_B] = folded
        # the gap less its excess, noisy - gap, summed with the cells' shares of all rows
        return float((n_B * (2 * gap_B - noisy_B)).sum() / self.rows)


def cells(view: BinaryView, scheme: Scheme, bins: int) -> Cells:
    """Cells of a view.

    width: (j/B, (j+1)/B], 0 in the first. mass: rank r (from 0) in cell floor(r B / N); ties may be
    split, and then the value depends on the order of rows; mass_whole_ties moves such cuts to the
    end of the run.
    """
    return cells_at(view, _cuts(view, scheme, bins))


def cells_at(view: BinaryView, cut_J: Ints) -> Cells:
    """Cells between ascending prefix lengths."""
    return Cells(
        rows=view.rows,
        cut_J=cut_J,
        count_B=np.diff(cut_J),
        p_B=np.diff(view.p_P[cut_J]),
        event_B=np.diff(view.event_P[cut_J]),
    )


def _cuts(view: BinaryView, scheme: Scheme, bins: int) -> Ints:
    if bins < 1:
        raise ValueError(f"{bins} bins: expected at least 1")
    n = view.rows
    if scheme == "width":
        inner = np.searchsorted(view.p_N, np.arange(1, bins) / bins, side="right")
        return np.concatenate([[0], inner, [n]])
    # ceil(j N / B): the first rank r with floor(r B / N) >= j
    cut_J = -(-np.arange(bins + 1) * n // bins)
    if scheme == "mass_whole_ties":
        # a cut inside a run of ties moves to the run's end: then rows in any order give one value
        cut_J[1:] = np.searchsorted(view.p_N, view.p_N[cut_J[1:] - 1], side="right")
    return cut_J
