"""P3: one threshold for all categories, by the closed form on all rows."""

from __future__ import annotations

import numpy as np

from demur.core.threshold import ALWAYS, NEVER
from demur.stats.thresholds.closed_form import highest_passing, lowest_passing, too_few
from demur.stats.thresholds.objective import best_within
from demur.stats.thresholds.procedures.task import CertifyTask, Finding, NotCertified, certified
from demur.stats.thresholds.results import Uncertified

_NONE = -1.0  # below every threshold: none keeps the goal


def certify_shared(task: CertifyTask) -> Finding:
    """P3 and the closed form: the best single threshold between the limits that all rows
    certify.
    """
    limits = shared_limits(task)
    if not isinstance(limits, tuple):
        return limits
    best = best_within(task.grouped, task.objective, limits[:1], limits[1:])
    method = "closed form, one shared threshold (arXiv 2110.01052)"
    # what shared_limits tests each side at
    delta = task.delta / len({loss.when for loss in task.losses})
    return certified(task, best, task.on_all_rows, method, delta=delta)


def shared_limits(task: CertifyTask) -> tuple[float, float] | Uncertified | NotCertified:
    """The certified range of one threshold: from below for false refusals, from above for missed
    ones.

    With goals on both sides each side gets half of delta; several goals on one side share its whole
    delta, because the most careful of their thresholds is where fixed-sequence testing of the
    largest p-value stops.
    """
    grouped, sides = task.grouped, {loss.when for loss in task.losses}
    delta, low, high = task.delta / len(sides), ALWAYS, NEVER
    for loss in task.losses:
        counted = loss.counted(task.everyone)
        test = counted.test(loss.level, delta)
        if test is None:
            divided = f"tested at delta {delta:.3g}" if len(sides) > 1 else ""
            return too_few(loss.goal, counted.units, counted.needed(loss.level, delta), divided)
        moves_N = loss.could_err_N & (grouped.group_N == 0)
        logq_N = grouped.at_worst(loss.when).logq_N
        if loss.when == "refused":
            # Rows that cannot err by a refusal are refused at no threshold, as far as errors go.
            low = max(low, lowest_passing(np.where(moves_N, logq_N, -np.inf), test))
            continue
        # Rows of inactive categories are answered at every threshold, rows of another kind never.
        reach_N = np.where(loss.could_err_N, np.where(moves_N, logq_N, -np.inf), np.inf)
        limit = highest_passing(reach_N, test)
        high = min(high, _NONE if limit is None else limit)
    if low > high or low == NEVER:
        return NotCertified(split=task.on_all_rows, delta=delta)
    return low, high
