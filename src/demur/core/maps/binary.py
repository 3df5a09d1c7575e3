"""Binary calibration maps: from log-odds of one event to calibrated log-odds. numpy only.

Log-odds keep their precision where a probability is all but 0 or 1. Maps on
probabilities also have `at`. Shapes: N prompts, J knots.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np

from demur.base.arrays import Doubles
from demur.base.errors import PolicyError

Numbers = tuple[float, ...]

# calibrated probabilities stay within [EPSILON, 1 - EPSILON]: no event is impossible or certain
EPSILON = 2.0**-52


class BinaryMap(Protocol):
    """The arithmetic of a fitted binary calibrator."""

    def log_odds(self, log_odds_N: Doubles) -> Doubles:
        """Calibrated log-odds, finite, from finite log-odds."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Platt:
    """slope * log-odds + offset. Platt 1999."""

    slope: float
    offset: float

    def log_odds(self, log_odds_N: Doubles) -> Doubles:
        """slope * log-odds + offset."""
        return self.slope * log_odds_N + self.offset


@dataclass(frozen=True, kw_only=True, slots=True)
class Beta:
    """a log p - b log(1 - p) + c; a = b = 1, c = 0 changes nothing. Kull, Silva Filho and Flach
    2017.
    """

    a: float  # >= 0
    b: float  # >= 0
    c: float

    def __post_init__(self) -> None:
        _check(min(self.a, self.b) >= 0, f"a {self.a} or b {self.b} is below 0")

    def log_odds(self, log_odds_N: Doubles) -> Doubles:
        """a log p - b log(1 - p) + c."""
        return (
            -self.a * np.logaddexp(0.0, -log_odds_N)
            + self.b * np.logaddexp(0.0, log_odds_N)
            + self.c
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Isotonic:
    """Never decreasing: linear between knots, constant outside them. It ties scores, thresholds
    cannot part them.
    """

    score_J: Numbers  # probabilities, ascending
    calibrated_J: Numbers  # ascending

    def __post_init__(self) -> None:
        _check(
            len(self.score_J) == len(self.calibrated_J) > 0,
            "knots differ in number, or there is none",
        )
        _check(
            _ascends(self.score_J) and _ascends(self.calibrated_J),
            "knots are not in ascending order",
        )

    def at(self, p_N: Doubles) -> Doubles:
        """Calibrated probabilities of probabilities."""
        return np.interp(p_N, self.score_J, self.calibrated_J)

    def log_odds(self, log_odds_N: Doubles) -> Doubles:
        """Log-odds of the interpolated probability."""
        return logit(self.at(expit(log_odds_N)))


@dataclass(frozen=True, kw_only=True, slots=True)
class Histogram:
    """One value per bin of probability. Bins are (edge, next edge]; what lies outside goes to the
    end bins.
    """

    edge_J: Numbers  # the inner edges, ascending: one less than bins
    value_B: Numbers

    def __post_init__(self) -> None:
        _check(
            len(self.value_B) == len(self.edge_J) + 1,
            "there must be one value more than inner edges",
        )
        _check(_ascends(self.edge_J), "edges are not in ascending order")

    def at(self, p_N: Doubles) -> Doubles:
        """Calibrated probabilities of probabilities."""
        return np.asarray(
            np.array(self.value_B)[np.searchsorted(self.edge_J, p_N, side="left")], dtype=np.float64
        )

    def log_odds(self, log_odds_N: Doubles) -> Doubles:
        """Log-odds of the bin's value."""
        return logit(self.at(expit(log_odds_N)))


@dataclass(frozen=True, kw_only=True, slots=True)
class VennAbers:
    """Two isotonic fits per score, with the prompt counted once as 0 and once as 1; the point value
    merges them.

    One of p0, p1 is calibrated, whatever the sample size. Vovk and Petej 2014, arXiv 1211.0025.
    Step functions: p0 changes at its scores (and is 0 before), p1 changes after its scores (and is
    1 beyond the last).
    """

    score0_J: Numbers  # p0 of a score is p0_J at the last score0_J <= it
    p0_J: Numbers
    score1_J: Numbers  # p1 of a score is p1_J at the first score1_J >= it
    p1_J: Numbers

    def __post_init__(self) -> None:
        _check(
            len(self.score0_J) == len(self.p0_J) and len(self.score1_J) == len(self.p1_J),
            "steps lack a value",
        )
        _check(
            all(map(_ascends, (self.score0_J, self.p0_J, self.score1_J, self.p1_J))),
            "steps do not ascend",
        )

    def interval(self, p_N: Doubles) -> tuple[Doubles, Doubles]:
        """(p0, p1) of probabilities; their distance says how little is known at this score."""
        # step functions: a leading 0 for scores below all of p0's, a trailing 1 for scores above
        # all of p1's
        lower = np.array([0.0, *self.p0_J])[np.searchsorted(self.score0_J, p_N, side="right")]
        upper = np.array([*self.p1_J, 1.0])[np.searchsorted(self.score1_J, p_N, side="left")]
        return lower, upper

    def at(self, p_N: Doubles) -> Doubles:
        """Calibrated probabilities of probabilities: p1 / (1 - p0 + p1), the minimax value for log
        loss.
        """
        p0_N, p1_N = self.interval(p_N)
        return np.asarray(p1_N / (1.0 - p0_N + p1_N), dtype=np.float64)

    def log_odds(self, log_odds_N: Doubles) -> Doubles:
        """Log-odds of the merged probability."""
        return logit(self.at(expit(log_odds_N)))


def expit(log_odds_N: Doubles) -> Doubles:
    """Probabilities of log-odds."""
    return np.asarray(np.exp(-np.logaddexp(0.0, -log_odds_N)), dtype=np.float64)


def logit(p_N: Doubles) -> Doubles:
    """Log-odds of probabilities, clipped to [EPSILON, 1 - EPSILON]: finite."""
    # log1p keeps 1 - p exact where p is small
    inside_N = np.clip(p_N, EPSILON, 1.0 - EPSILON)
    return np.asarray(np.log(inside_N) - np.log1p(-inside_N), dtype=np.float64)


def _ascends(values: Numbers) -> bool:
    return all(a <= b for a, b in pairwise(values))


def _check(holds: bool, what: str) -> None:
    if not holds:
        raise PolicyError(
            f"calibrator: {what}", "the file was changed by hand or is damaged: fit it again"
        )
