"""From a binary family to all control tokens: one map for two tokens, else one map per token
against all others.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from demur.base.arrays import Bools, Doubles
from demur.core.maps.binary import BinaryMap, Platt
from demur.core.maps.multiclass import OneVsRest, Pair, log_rest
from demur.stats.calibrators.rows import FitRows, FittedMap

# (log-odds of the event, whether it occurred) -> map
FitBinary = Callable[[Doubles, Bools], BinaryMap]


def fit_one_vs_rest(rows: FitRows, fit: FitBinary) -> FittedMap:
    """Fit a binary family: two control tokens get one map of the refusal's log-odds, more get a map
    per token.

    Raises DataError if a label is missing. Notes each reversed Platt slope: the token's own score
    then lowers its calibrated probability.
    """
    rows.require_every_label()
    odds_NC = rows.closed_NC - log_rest(rows.closed_NC)
    if rows.closed_NC.shape[1] == 2:
        pair = Pair(map=fit(rows.closed_NC[:, 1] - rows.closed_NC[:, 0], rows.label_N == 1))
        return FittedMap(map=pair, notes=_notes((pair.map,)))
    maps = tuple(fit(odds_NC[:, c], rows.label_N == c) for c in range(odds_NC.shape[1]))
    return FittedMap(map=OneVsRest(maps=maps), notes=_notes(maps))


def shrunk(mean: Doubles, weight: Doubles, base_rate: float, strength: float) -> Doubles:
    """Shrink group means towards the base rate as if `strength` more rows had been seen there.

    With strength 0 a group without a hit says 0, and one such row among new ones costs an infinite
    log loss.
    """
    return np.asarray(
        (mean * weight + strength * base_rate) / (weight + strength), dtype=np.float64
    )


def _notes(maps: tuple[BinaryMap, ...]) -> tuple[str, ...]:
    inverted = [c for c, m in enumerate(maps) if isinstance(m, Platt) and m.slope <= 0.0]
    return tuple(
        f"map {c}: its slope is not positive, the scores are inverted or say nothing"
        for c in inverted
    )
