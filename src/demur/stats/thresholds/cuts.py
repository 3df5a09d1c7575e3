"""Thresholds beside observed float32 scores, which include or exclude them on every platform.

decide_many refuses iff float64(log q) >= log(T). A threshold exp(log q) would leave the tie to the
last bit of exp and log; ours stand half a float32 step beside the observed value, in log space,
which no rounding of either can cross. Two distinct values u > v have a threshold between them iff
cut_above(v) <= cut_below(u).
"""

from __future__ import annotations

import numpy as np

from demur.base.arrays import Doubles, Floats
from demur.core.maps.binary import expit
from demur.core.threshold import ALWAYS, NEVER, log_odds

# Near q = 1 float64 probabilities are 2**-53 apart: coarser than float32 log q above -7e-9. Keep
# four steps away.
_LEAST_STEP = 2.0**-51
# Near q = 0 float64 turns denormal. Values below are told apart from larger ones, not from one
# another.
_LOWEST_LOG = np.float32(-700.0)
# Beyond these log-odds float32 log q is 0.
_SUREST = 17.0


def cut_below(logq: Floats) -> Doubles:
    """Thresholds (probabilities) that include these values: q >= T. ALWAYS for values below
    exp(-700).
    """
    observed = _clipped(logq)
    return np.where(logq < _LOWEST_LOG, ALWAYS, np.exp(observed - _half_step(observed, -np.inf)))


def cut_above(logq: Floats) -> Doubles:
    """Thresholds (probabilities) that exclude these values: not q >= T. NEVER for values at q =
    1.
    """
    observed = _clipped(logq)
    return np.where(
        observed >= 0.0, NEVER, np.exp(np.minimum(observed + _half_step(observed, np.inf), 0.0))
    )


def cut_between(above: Floats, below: Floats) -> Doubles:
    """Thresholds that include the one value and exclude the other, halfway between them in
    log-odds; above > below.

    Where only rows to learn from are known, others fall into the gap: halfway errs the least in
    either direction.
    """
    # Rounding may carry the midpoint past an end of a narrow gap: clip it between the two cuts.
    middle = (_finite_log_odds(above) + _finite_log_odds(below)) / 2.0
    lowest, highest = cut_above(below), cut_below(above)
    return np.clip(expit(middle), np.minimum(lowest, highest), highest)


def _finite_log_odds(logq: Floats) -> Doubles:
    """Log-odds of log-probabilities, at most those at which float32 log q rounds to 0."""
    return np.minimum(log_odds(np.asarray(logq, dtype=np.float64)), _SUREST)


def _clipped(logq: Floats) -> Floats:
    """Scores within the range in which float64 probabilities tell them apart."""
    return np.clip(np.asarray(logq, dtype=np.float32), _LOWEST_LOG, np.float32(0.0))


def _half_step(observed: Floats, towards: float) -> Doubles:
    """Half the distance to the next float32 value in one direction, as float64: the two differ at
    powers of two.
    """
    neighbour = np.nextafter(observed, np.float32(towards)).astype(np.float64)
    return np.maximum(np.abs(neighbour - observed) / 2.0, _LEAST_STEP)
