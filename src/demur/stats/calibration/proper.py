"""Proper scores, and discrimination. Smaller scores are better, larger areas are better."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

from demur.base.arrays import Doubles
from demur.stats.calibration.views import BinaryView, Forecast
from demur.stats.measure import Statistic

ScoreName = Literal["brier", "log"]


def nll(f: Forecast) -> Statistic:
    """Mean negative natural log-probability of the label. Undefined where a label has probability
    0.
    """
    logp_N = f.logp_NC[np.arange(len(f.label_N)), f.label_N]
    if np.isneginf(logp_N).any():
        return Statistic(
            number=None, why=f"{int(np.isneginf(logp_N).sum())} labels have probability 0"
        )
    return Statistic(number=float(-logp_N.mean()))


def brier(f: Forecast) -> float:
    """Mean over rows of the squared distance to the label's unit vector, in [0, 2]."""
    own_N = f.p_NC[np.arange(len(f.label_N)), f.label_N]
    return float(((f.p_NC**2).sum(axis=1) - 2.0 * own_N + 1.0).mean())


def binary_score(view: BinaryView, score: ScoreName = "brier") -> float:
    """Mean binary Brier score, or mean log score (inf where what was called impossible
    happened).
    """
    return _SCORES[score](view.p_N, view.event_N)


def view_auroc(view: BinaryView) -> Statistic:
    """P(an event's probability exceeds a non-event's), ties half. Undefined where all events are of
    one kind.
    """
    happened = float(view.event_P[-1])
    missing = view.rows - happened
    if not happened or not missing:
        return _one_kind()
    # R runs of tied probabilities: events and non-events in each. A pair (event, non-event) counts
    # 1 where the non-event is in a lower run and 1/2 where both share one (Mann and Whitney 1947).
    ends = view.run_ends
    event_R = np.diff(np.concatenate([[0.0], view.event_P[ends]]))
    other_R = np.diff(np.concatenate([[0], ends])) - event_R
    below_R = np.cumsum(other_R) - other_R
    return Statistic(
        number=float((event_R * (below_R + other_R / 2.0)).sum() / (happened * missing))
    )


def view_average_precision(view: BinaryView) -> Statistic:
    """Step-wise area under precision over recall; compare it with the base rate. Undefined without
    both kinds.
    """
    if not 0.0 < view.base_rate < 1.0:
        return _one_kind()
    starts = np.concatenate([[0], view.run_ends[:-1]])  # emit the rows from here upwards
    # events among the rows from each start upwards, and how many the next start loses: the
    # recall gained there weighs the precision at that cut
    caught_R = view.event_P[-1] - view.event_P[starts]
    gained_R = caught_R - np.append(caught_R[1:], 0.0)
    return Statistic(
        number=float((gained_R * caught_R / (view.rows - starts)).sum() / view.event_P[-1])
    )


def _brier_score(p_N: Doubles, event_N: Doubles) -> float:
    return float(((p_N - event_N) ** 2).mean())


def _log_score(p_N: Doubles, event_N: Doubles) -> float:
    with np.errstate(divide="ignore"):
        return float(-np.log(np.where(event_N == 1.0, p_N, 1.0 - p_N)).mean())


def _one_kind() -> Statistic:
    return Statistic(number=None, why="all events are of one kind")


_SCORES: dict[ScoreName, Callable[[Doubles, Doubles], float]] = {
    "brier": _brier_score,
    "log": _log_score,
}
