"""Evidence on one rate that may be looked at after every label: the arithmetic of independent
requests. Its tests: demur.stats.thresholds.procedures.anytime.

Shapes: T pairs of counts.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import betainc, betaln, xlog1py, xlogy

from demur.base.arrays import Doubles, Ints
from demur.stats.judging.betting import least_refuted

_PRIOR = 0.5  # Beta(1/2, 1/2), cut off above the level: how likely which kept rate is


def most_errors_anytime(n: int, level: float, delta: float) -> int | None:
    """The most errors among n labels at which E has reached 1 / delta; None if no error is too
    many.
    """
    most = int(most_errors_at_any_look(np.array([n]), level, delta)[0])
    return most if most >= 0 else None


def most_errors_at_any_look(of_T: Ints, level: float, delta: float) -> Ints:
    """The same for several numbers of labels at once, shape (T,); -1 where no error is too many."""
    # Evidence falls with each error more: bisection between errors that pass and such that do not.
    # None is left where errors reach the level itself.
    low_T, high_T = np.full(len(of_T), -1), (of_T * level).astype(np.int64) + 1
    while (high_T - low_T > 1).any():
        middle_T = (low_T + high_T) // 2
        evidence_T = log_evidence_below(np.maximum(middle_T, 0), of_T, level)
        passes_T = (evidence_T >= -math.log(delta)) & (middle_T >= 0)
        passes_T |= middle_T < 0
        low_T = np.where(passes_T, middle_T, low_T)
        high_T = np.where(passes_T, high_T, middle_T)
    return low_T


def log_evidence_below(hits: Ints, of: Ints, level: float) -> Doubles:
    """Natural log of E: the mean likelihood ratio of rates below the level against the level
    itself. hits, of: counts of the same shape. level: in (0, 1).
    """
    # Integral over r in (0, level) of r^hits (1 - r)^misses under the prior = lower incomplete beta
    # function; betainc is regularised, so betaln is put back.
    misses = of - hits
    a, b = _PRIOR + hits, _PRIOR + misses
    with np.errstate(divide="ignore"):
        mixed = np.log(betainc(a, b, level)) + betaln(a, b)
    prior = np.log(betainc(_PRIOR, _PRIOR, level)) + betaln(_PRIOR, _PRIOR)
    return np.asarray(
        mixed - prior - xlogy(hits, level) - xlog1py(misses, -level), dtype=np.float64
    )


def upper_at_any_look(hits: int, of: int, delta: float) -> float:
    """One-sided upper confidence bound of a rate that holds at every look, by independent
    requests.
    """

    def refuted(level: float) -> bool:
        e = log_evidence_below(np.array([hits]), np.array([of]), level)[0] if of else 0.0
        return bool(e >= -math.log(delta))

    return least_refuted(refuted, low=hits / max(of, 1))


def anytime_needed(level: float, delta: float) -> int:
    """The fewest labels that pass the test when no error is seen."""
    needed = 1
    while most_errors_anytime(needed, level, delta) is None:
        needed *= 2
    low = needed // 2
    while needed - low > 1:
        middle = (low + needed) // 2
        enough = most_errors_anytime(middle, level, delta) is not None
        low, needed = (low, middle) if enough else (middle, needed)
    return needed
