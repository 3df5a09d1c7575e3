"""What scored, labelled rows say of the thresholds that a certification on other rows would test:
likely true rates, and the part of the rows that counts.

1. The procedure is the one that these rows would be certified by (requests).
2. Its thresholds are chosen on some of the rows and counted on others (outlook), except where one
   threshold for all comes closest on all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from demur.base.arrays import Doubles
from demur.core.goals.goal import Goal
from demur.stats.thresholds.plan import BAND, ORDERED, likely_rates
from demur.stats.thresholds.procedures.band import surest_pair
from demur.stats.thresholds.procedures.ordered import surest_vector
from demur.stats.thresholds.procedures.outlook import rates_in_reach
from demur.stats.thresholds.procedures.requests import CertifyCase, requests


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class AtHand:
    """What rows say of one goal at such thresholds."""

    rate_Q: Doubles  # equally likely true rates
    counted: float  # the part of the rows that it may speak of which it counts


def rates_at_hand(case: CertifyCase, asked: Sequence[Goal]) -> tuple[AtHand, ...]:
    """What the rows of a case say of each goal. Raises what a certification raises before its
    tests.
    """
    (method, task), *_ = requests(case, asked, case.delta)
    if method not in (ORDERED, BAND):
        rate_LQ = rates_in_reach(method, task)[1]
        return tuple(AtHand(rate_Q=rate_Q, counted=1.0) for rate_Q in rate_LQ)
    surest = surest_pair if method == BAND else surest_vector
    refused_N, held_N, test_N = surest(task)
    found = []
    for loss in task.losses:
        rows = loss.counted_under(refused_N, test_N)
        errors = float(rows.shares(loss.errors(refused_N, held_N)).sum())
        # Other rows choose another vector, whose rate is as uncertain as rates on so many learning
        # rows are: variances add up, as if that part of the tested rows were seen alone.
        seen = task.learn_share if method == ORDERED else 1.0
        whole = loss.within(test_N).units
        found.append(
            AtHand(
                rate_Q=likely_rates(seen * errors, seen * rows.units),
                counted=np.clip(rows.units / max(whole, 1), 0.0, 1.0).item(),
            )
        )
    return tuple(found)
