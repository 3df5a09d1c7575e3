"""Thresholds: a probability from which on a category is refused, and its distance in log-odds."""

from __future__ import annotations

import math

import numpy as np

from demur.base.arrays import Doubles

NEVER = math.inf  # a threshold above every probability
ALWAYS = 0.0  # a threshold at or below every probability


def log_odds(logq: Doubles) -> Doubles:
    """log(q / (1 - q)) from log q, accurate near q = 1; +inf for q >= 1."""
    with np.errstate(divide="ignore"):
        return np.where(logq >= 0.0, np.inf, logq - np.log(-np.expm1(np.minimum(logq, 0.0))))


def margin(logq: Doubles, log_threshold: Doubles) -> Doubles:
    """Log-odds of q minus log-odds of the threshold, >= 0 exactly when q >= threshold, whatever is
    infinite.
    """
    with np.errstate(invalid="ignore"):
        difference = log_odds(logq) - log_odds(log_threshold)
    difference = np.where(np.isnan(difference), 0.0, difference)
    met = logq >= log_threshold
    return np.where(
        met, np.maximum(difference, 0.0), np.minimum(difference, -np.finfo(np.float64).tiny)
    )
