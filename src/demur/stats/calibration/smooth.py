"""Calibration through kernels on the probability axis: no number of bins to choose.

Shapes: N rows, G points of a grid on [0, 1].
"""

from __future__ import annotations

import math

import numpy as np
from scipy.signal import fftconvolve

from demur.base.arrays import Doubles
from demur.stats.calibration.views import BinaryView
from demur.stats.measure import Statistic

MMCE_WIDTH = 0.4  # of the Laplace kernel: Kumar, Sarawagi and Jain 2018
# cells of the probability axis: far finer than any bandwidth that N < 1e7 rows support
GRID = 2**13


def mmce(view: BinaryView) -> float:
    """Maximum mean calibration error: sqrt(r' K r) / N with r = event - p and K = exp(-|p - p'| /
    0.4).

    Exact in O(N): on sorted probabilities the kernel is a product of exponentials, which [0, 1]
    keeps below e^2.5.
    """
    # exp(-|p - p'| / w) = exp(-p / w) exp(p' / w) for p' <= p: the double sum over pairs becomes
    # one cumulative sum over rows sorted by p, doubled, plus the diagonal r^2
    r_N, grown_N = view.event_N - view.p_N, np.exp(view.p_N / MMCE_WIDTH)
    before_N = np.cumsum(r_N * grown_N) - r_N * grown_N
    form = 2.0 * (r_N / grown_N * before_N).sum() + (r_N**2).sum()
    return float(math.sqrt(max(form, 0.0)) / view.rows)


def kde_error(view: BinaryView) -> Statistic:
    """Calibration error through kernel density estimates. Zhang, Kailkhura and Han 2020 (arXiv
    2003.07329).

    Triweight kernel mirrored at 0 and 1, bandwidth sd x (2 N)^(-1/5). Undefined where no event
    happened, or where all probabilities of events are equal. Sensitive to the bandwidth: compare at
    equal N only.
    """
    happened_N = view.event_N == 1.0
    sd = float(view.p_N[happened_N].std()) if happened_N.any() else 0.0
    if sd == 0.0:
        return Statistic(
            number=None,
            why="the events that happened have no spread of probabilities: no bandwidth",
        )
    bandwidth = sd * (2 * view.rows) ** -0.2
    all_G = _density(view.p_N, bandwidth)
    event_G = view.base_rate * _density(view.p_N[happened_N], bandwidth)
    t_G = (np.arange(GRID) + 0.5) / GRID
    # Bayes: P(event | p) = density of p among events x base rate / density of p among all rows.
    # Grid points without mass are undefined and weigh nothing.
    with np.errstate(divide="ignore", invalid="ignore"):
        frequency_G = np.where(all_G > 0, np.minimum(event_G / all_G, 1.0), 0.0)
    return Statistic(number=float((np.abs(t_G - frequency_G) * all_G).mean()))


def _density(p_N: Doubles, bandwidth: float) -> Doubles:
    """Density on the centres of the grid."""
    at_N = np.minimum((p_N * GRID).astype(np.int64), GRID - 1)
    mass_G = np.bincount(at_N, minlength=GRID) / len(p_N)
    support = 3.0 * bandwidth  # the triweight kernel has standard deviation support / 3
    reach = int(support * GRID)
    u = np.arange(-reach, reach + 1) / GRID / support
    kernel = (1.0 - u**2) ** 3
    # mass that the kernel pushes beyond 0 or 1 is reflected back, so that densities sum to 1
    mirrored = np.concatenate([mass_G[::-1], mass_G, mass_G[::-1]])
    return np.asarray(
        fftconvolve(mirrored, kernel / kernel.sum() * GRID, mode="same")[GRID : 2 * GRID]
    )
