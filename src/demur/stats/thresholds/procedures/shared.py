"""P3: one threshold for all categories, by the closed form on all rows."""

from __future__ import annotations

import numpy as np

from demur.core.rates import most_errors, rows_needed
from demur.core.threshold import ALWAYS, NEVER
from demur.stats.thresholds.closed_form import highest_keeping, lowest_keeping, too_few
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
    return certified(task, best, task.on_all_rows, method)


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
        compared_M = grouped.logq_N[loss.could_err_N & (grouped.group_N == 0)].astype(np.float32)
        of = loss.of(task.everyone)
        if most_errors(of, loss.level, delta) is None:
            divided = f"tested at delta {delta:.3g}" if len(sides) > 1 else ""
            return too_few(loss.goal, of, rows_needed(loss.level, delta), divided)
        if loss.when == "refused":
            low = max(low, lowest_keeping(compared_M, of, loss.level, delta) or ALWAYS)
            continue
        never_M = np.full(
            int((loss.could_err_N & (grouped.group_N != 0)).sum()), -np.inf, dtype=np.float32
        )
        limit = highest_keeping(np.concatenate([compared_M, never_M]), of, loss.level, delta)
        high = min(high, _NONE if limit is None else limit)
    if low > high or low == NEVER:
        return NotCertified(split=task.on_all_rows, delta=delta)
    return low, high
