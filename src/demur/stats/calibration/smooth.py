"""Calibration through kernels on the probability axis: no number of bins to choose.

Shapes: N rows, G points of a grid on [0, 1].
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.fft import dct, idct
from scipy.optimize import brentq
from scipy.signal import fftconvolve

from demur.base.arrays import Doubles
from demur.stats.calibration.views import View
from demur.stats.measure import Figure

MMCE_WIDTH = 0.4  # of the Laplace kernel: Kumar, Sarawagi and Jain 2018
GRID = 2**13  # cells of the probability axis: far finer than any bandwidth that N < 1e7 rows support
FINEST = 1.0 / GRID


@dataclass(frozen=True, kw_only=True, slots=True)
class SmoothError:
    """The smooth calibration error and the bandwidth at which it equals itself."""

    error: float
    bandwidth: float


def mmce(view: View) -> float:
    """Maximum mean calibration error: sqrt(r' K r) / N with r = event - p and K = exp(-|p - p'| / 0.4).

    Exact in O(N): on sorted probabilities the kernel is a product of exponentials, which [0, 1] keeps below e^2.5.
    """
    r_N, grown_N = view.event_N - view.p_N, np.exp(view.p_N / MMCE_WIDTH)
    before_N = np.cumsum(r_N * grown_N) - r_N * grown_N
    form = 2.0 * (r_N / grown_N * before_N).sum() + (r_N**2).sum()
    return float(math.sqrt(max(form, 0.0)) / view.rows)


def smooth_error(view: View) -> SmoothError:
    """smECE: the default scalar of reports. Błasiok and Nakkiran 2024 (arXiv 2309.12236).

    Residuals are smoothed with a Gaussian reflected at 0 and 1; the bandwidth is the fixed point where it equals the
    error. On the cosine basis of [0, 1] that kernel is diagonal, hence one transform per bandwidth tried.
    """
    wave_G = _residual_waves(view)
    if _error_at(wave_G, FINEST) <= FINEST:
        return SmoothError(error=_error_at(wave_G, FINEST), bandwidth=FINEST)
    bandwidth = float(brentq(lambda sd: _error_at(wave_G, sd) - sd, FINEST, 1.0, xtol=1e-9))
    return SmoothError(error=_error_at(wave_G, bandwidth), bandwidth=bandwidth)


def smooth_error_at(view: View, bandwidth: float) -> float:
    """The smooth error at a bandwidth (standard deviation of the Gaussian) of the caller's."""
    return _error_at(_residual_waves(view), bandwidth)


def kde_error(view: View) -> Figure:
    """Calibration error through kernel density estimates. Zhang, Kailkhura and Han 2020 (arXiv 2003.07329).

    Triweight kernel mirrored at 0 and 1, bandwidth sd x (2 N)^(-1/5). Undefined where no event happened, or where
    all probabilities of events are equal. Sensitive to the bandwidth: compare at equal N only.
    """
    happened_N = view.event_N == 1.0
    sd = float(view.p_N[happened_N].std()) if happened_N.any() else 0.0
    if sd == 0.0:
        return Figure(number=None, why="the events that happened have no spread of probabilities: no bandwidth")
    bandwidth = sd * (2 * view.rows) ** -0.2
    all_G = _density(view.p_N, bandwidth)
    event_G = view.base_rate * _density(view.p_N[happened_N], bandwidth)
    t_G = (np.arange(GRID) + 0.5) / GRID
    with np.errstate(divide="ignore", invalid="ignore"):
        frequency_G = np.where(all_G > 0, np.minimum(event_G / all_G, 1.0), 0.0)
    return Figure(number=float((np.abs(t_G - frequency_G) * all_G).mean()))


def _residual_waves(view: View) -> Doubles:
    """Cosine coefficients of the residuals' histogram, as shares of N."""
    at_N = np.minimum((view.p_N * GRID).astype(np.int64), GRID - 1)
    residual_G = np.bincount(at_N, weights=view.p_N - view.event_N, minlength=GRID)
    return np.asarray(dct(residual_G / view.rows), dtype=np.float64)


def _error_at(wave_G: Doubles, sd: float) -> float:
    damped_G = wave_G * np.exp(-0.5 * (np.pi * np.arange(GRID) * sd) ** 2)
    return float(np.abs(idct(damped_G)).sum())


def _density(p_N: Doubles, bandwidth: float) -> Doubles:
    """Density on the centres of the grid."""
    at_N = np.minimum((p_N * GRID).astype(np.int64), GRID - 1)
    mass_G = np.bincount(at_N, minlength=GRID) / len(p_N)
    support = 3.0 * bandwidth  # the triweight kernel has standard deviation support / 3
    reach = int(support * GRID)
    u = np.arange(-reach, reach + 1) / GRID / support
    kernel = (1.0 - u**2) ** 3
    mirrored = np.concatenate([mass_G[::-1], mass_G, mass_G[::-1]])
    return np.asarray(fftconvolve(mirrored, kernel / kernel.sum() * GRID, mode="same")[GRID : 2 * GRID])
