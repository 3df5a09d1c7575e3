"""Promises about one threshold, in closed form: integers decide, floats only carry scores."""

from __future__ import annotations

import numpy as np

from demur.core import bounds
from demur.core.guarantee import Certified, Infeasible
from demur.core.policy import NEVER
from demur.core.rates import Rate
from demur.core.score import Floats
from demur.stats.cuts import cut_above


def certify_false_refusal(compared_N: Floats, level: float, delta: float) -> Certified | Infeasible:
    """The most lenient threshold with P(false-refusal rate > level) <= delta over the draw of these rows.

    compared_N: natural-log probabilities that the threshold is compared with, float32, of the rows to be answered only,
    drawn independently of whatever made the scores. level, delta: in (0, 1). With k the most errors that n rows allow,
    the threshold lies just above the (k + 1)-th largest score. Exact for continuous scores; ties only make it stricter.

    Source: Learn then Test (Angelopoulos et al. 2021, arXiv 2110.01052) with fixed-sequence testing from strict to
    lenient, which for a monotone binary loss ends at this order statistic. Held to its word in tests/validity.
    """
    rows = len(compared_N)
    k = bounds.most_errors(rows, level, delta)
    needed = bounds.rows_needed(level, delta)
    if k is None:
        reason = f"{rows} rows to be answered cannot promise it, even with no error among them"
        return Infeasible(reason=reason, rows=rows, rows_needed=needed)
    threshold = float(cut_above(np.sort(compared_N)[rows - 1 - k]))
    if threshold == NEVER:
        reason = f"more than the {k} allowed of {rows} rows to be answered score q = 1: no threshold excludes them"
        return Infeasible(reason=reason, rows=rows, rows_needed=needed)
    errors = int((compared_N.astype(np.float64) >= np.log(threshold)).sum())
    return Certified(threshold=threshold, rate=Rate(hits=errors, of=rows))
