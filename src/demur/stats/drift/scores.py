"""The series that drift is tested on: log-odds of refusing at all, and of each category. Shapes: N
rows, S = 1 + K series.
"""

from __future__ import annotations

import numpy as np

from demur.base.arrays import Doubles, Floats
from demur.core.score import check_scores
from demur.core.taxonomy import Taxonomy

TOTAL = "total"  # the series of all refusal tokens together
MOST_LOG_ODDS = 20.0  # beyond, float32 scores tell nothing apart


def series_names(taxonomy: Taxonomy) -> tuple[str, ...]:
    """The names of the series: total, then the categories, in token order."""
    return (TOTAL, *taxonomy.names)


def series_log_odds(logp_NC: Floats) -> Doubles:
    """Scores as series, shape (N, S), within [-20, 20]: any refusal token against the answer, each
    against the rest.

    Before calibration: drift is a matter of traffic, and a calibrator may tie scores. Raises
    ScoreError on scores that are not log-probabilities.
    """
    check_scores(logp_NC)
    logp = np.minimum(logp_NC.astype(np.float64), 0.0)
    total_N1 = np.logaddexp.reduce(logp[:, 1:], axis=1, keepdims=True) - logp[:, :1]
    with np.errstate(divide="ignore"):
        # log p - log(1 - p); -expm1 keeps 1 - p exact near p = 1, and p = 1 gives inf, clipped
        # below
        each_NK = logp[:, 1:] - np.log(-np.expm1(logp[:, 1:]))
    both_NS = np.concatenate([total_N1, each_NK], axis=1)
    return np.asarray(np.clip(both_NS, -MOST_LOG_ODDS, MOST_LOG_ODDS), dtype=np.float64)
