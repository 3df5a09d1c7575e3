"""P3: one threshold for all categories, by the closed form on all rows."""

from __future__ import annotations

import numpy as np

from demur.core.rates import most_errors, rows_needed
from demur.core.threshold import ALWAYS, NEVER
from demur.stats.thresholds.closed_form import highest_keeping, lowest_keeping, too_few
from demur.stats.thresholds.procedures.request import Request, explained, within
from demur.stats.thresholds.results import Certified, Failure
from demur.stats.thresholds.search import (
    Split,
)

_NONE = -1.0  # below every threshold: none keeps the goal


def certify_shared(request: Request) -> Certified | Failure:
    """P3 and the closed form: the best single threshold between the limits that all rows
    certify.
    """
    limits = shared_limits(request)
    if not isinstance(limits, tuple):
        return limits
    return within(
        request, [limits[0]], [limits[1]], "closed form, one shared threshold (arXiv 2110.01052)"
    )


def shared_limits(request: Request) -> tuple[float, float] | Failure:
    """The certified range of one threshold: from below for false refusals, from above for missed
    ones.

    With goals on both sides each side gets half of delta; several goals on one side share its whole
    delta, because the most careful of their thresholds is where fixed-sequence testing of the
    largest p-value stops.
    """
    board, sides = request.board, {loss.when for loss in request.losses}
    delta, low, high = request.delta / len(sides), ALWAYS, NEVER
    for loss in request.losses:
        compared_M = board.logq_N[loss.could_err_N & (board.group_N == 0)].astype(np.float32)
        of = loss.of(request.everyone)
        if most_errors(of, loss.level, delta) is None:
            divided = f"tested at delta {delta:.3g}" if len(sides) > 1 else ""
            return too_few(loss.goal, of, rows_needed(loss.level, delta), divided)
        if loss.when == "refused":
            low = max(low, lowest_keeping(compared_M, of, loss.level, delta) or ALWAYS)
            continue
        never_M = np.full(
            int((loss.could_err_N & (board.group_N != 0)).sum()), -np.inf, dtype=np.float32
        )
        limit = highest_keeping(np.concatenate([compared_M, never_M]), of, loss.level, delta)
        high = min(high, _NONE if limit is None else limit)
    if low > high or low == NEVER:
        return explained(request, Split(learn_N=request.everyone, test_N=request.everyone), delta)
    return low, high
