"""The mix of traffic that was seen without labels: bounds of the share that each slice has.

1. By a facet that requests say, such as their tenant: each slice's share is a binomial rate among
   the requests, or among their sessions, and has its exact bounds. Taken for granted: the requests
   of one slice are as the rows of it, their labels among them.
2. By label, which no request says (label shift). The rows say how often the model's own choice is
   token j for label k, the traffic how often it is token j, each within exact bounds. The mixes
   that fit all of these are a polytope; its extent along each label bounds that label's share. It
   is black-box shift estimation (arXiv 1802.03916), with intervals for all that it counts. Taken
   for granted: the requests of one label are as the rows of it.

Each bound gets an even part of the error probability (Bonferroni). Shapes: N rows, S slices, J
tokens that the model chooses.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linprog

from demur.base.arrays import Doubles
from demur.base.errors import DataError
from demur.core.rates import Rate, TrafficMix

SPENDS = 0.4  # of a test's delta, for the bounds of shares; the bets have the rest
OTHERS = 0.05  # error probability of the bound on requests that are in no slice
_FORESEEN = 1.5  # how far off a share by label may be from the model's own choices, for bets
_NONE = 1e-300  # in place of 0, so that 0 of 0 is 0
_SOLVED = 1e-6  # of a share, for the rounding of linear programs


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ShareBounds:
    """Bounds of the shares of S slices, which sum to 1."""

    low_S: Doubles
    high_S: Doubles

    def words(self, facet: str, names: Sequence[str]) -> str:
        """For people: "10% kind contrast, 78 to 84% kind benign"; slices that cannot come are left
        out.
        """
        found = []
        for name, low, high in zip(names, self.low_S.tolist(), self.high_S.tolist(), strict=True):
            ends = dict.fromkeys((f"{100 * low:.3g}", f"{100 * high:.3g}"))
            if high > 0.0:
                found.append(f"{' to '.join(ends)}% {facet} {name}")
        return ", ".join(found)


@dataclass(frozen=True, kw_only=True, slots=True)
class SpokenShares:
    """Of each slice the share of its requests that a goal speaks of."""

    rates: tuple[Rate, ...]  # by the rows' labels
    settled: bool  # whether a slice is spoken of as a whole or not at all, by what slices are
    # slices that it cannot speak of, by its own words: (S,); empty: there is none
    barred: tuple[bool, ...] = ()

    def bounds(self, delta: float) -> ShareBounds:
        """Bounds that all of them keep together, but with probability delta."""
        likely_S = self.likely_S
        if self.settled:
            return ShareBounds(low_S=likely_S, high_S=likely_S)
        each = delta / (2 * len(self.rates))
        may_S = ~np.array(self.barred or (False,) * len(self.rates))
        return ShareBounds(
            low_S=np.array([rate.lower(each) for rate in self.rates]) * may_S,
            high_S=np.array([rate.upper(each) for rate in self.rates]) * may_S,
        )

    @property
    def likely_S(self) -> Doubles:
        """The shares of the rows."""
        return np.array([rate.value for rate in self.rates])


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class EstimatedMix(TrafficMix):
    """A mix of all requests of some traffic, whose shares are known within bounds."""

    seen: tuple[Rate, ...]  # of traffic: of each slice, or of each token that the model chooses
    requests: str  # of which traffic, in words

    @property
    def by_label(self) -> bool:
        """Whether a row's slice is its label."""
        return False

    @property
    @abstractmethod
    def source(self) -> str:
        """How the shares are known, and what is taken for granted, for people."""

    @abstractmethod
    def bounds(self, delta: float) -> ShareBounds:
        """Bounds that all shares keep together, but with probability delta."""

    def foreseen(self, delta: float) -> ShareBounds:
        """Shares that bets are sized for: known without the errors and scores of labelled rows."""
        return self.bounds(delta)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SeenMix(EstimatedMix):
    """A mix by a facet that requests say."""

    others: float  # the most that requests of no slice may be, where there may be such

    @property
    def source(self) -> str:
        """How the shares are known, and what is taken for granted."""
        alike = (
            f"seen in {self.requests}; it takes requests of one {self.facet} to be alike wherever "
            "they come from"
        )
        if not self.others:
            return alike
        return (
            f"{alike}, and says nothing of those of another {self.facet}: at most "
            f"{self.others:.2%} of such traffic (at {1 - OTHERS:.0%})"
        )

    def bounds(self, delta: float) -> ShareBounds:
        """Exact bounds of all shares together."""
        if len(self.seen) == 1:
            return ShareBounds(low_S=np.ones(1), high_S=np.ones(1))
        # of two slices, a bound of one is a bound of the other
        each = delta / (2 if len(self.seen) == 2 else 2 * len(self.seen))
        return ShareBounds(
            low_S=np.array([rate.lower(each) for rate in self.seen]),
            high_S=np.array([rate.upper(each) for rate in self.seen]),
        )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ShiftedMix(EstimatedMix):
    """A mix by label, found by the tokens that the model itself chooses.

    share_S: of these tokens, so that bets are sized without the rows that they are counted on.
    """

    chosen: tuple[tuple[Rate, ...], ...]  # of each label the share of its rows, by token

    @property
    def by_label(self) -> bool:
        """A row's slice is its label, or whether it is to be refused."""
        return True

    @property
    def source(self) -> str:
        """How the shares are known, and what is taken for granted."""
        return (
            f"from the model's own choices in {self.requests}; it takes requests of one label to "
            "be alike wherever they come from (label shift)"
        )

    def foreseen(self, delta: float) -> ShareBounds:  # noqa: ARG002
        """No more than so many times the shares of the tokens that the model chooses in traffic."""
        return ShareBounds(
            low_S=np.zeros(len(self.names)),
            high_S=np.minimum(self.share_S * _FORESEEN, 1.0),
        )

    def bounds(self, delta: float) -> ShareBounds:
        """The extent of the mixes that fit all counts within their exact bounds.

        Raises DataError where none fits: label shift is refuted then.
        """
        slices = len(self.names)
        each = delta / _bounds_of(slices)
        high_SJ, low_SJ = (
            np.array([[getattr(rate, end)(each) for rate in row] for row in self.chosen])
            for end in ("upper", "lower")
        )
        most_J, least_J = (
            np.array([getattr(rate, end)(each) for rate in self.seen]) for end in ("upper", "lower")
        )
        # A token cannot be chosen less often than the mix of lower bounds, nor more often than
        # that of upper ones.
        matrix, limit = np.concatenate([low_SJ.T, -high_SJ.T]), np.concatenate([most_J, -least_J])
        low_S, high_S = _extent(matrix, limit)
        if not (low_S <= high_S).all():
            raise DataError(
                f"no mix of the {slices} labels of these rows is refused as {self.requests} are: "
                f"the model chooses {_shares(self.names, self.seen)} there",
                "requests of one label differ from the rows of it: label some of the traffic, and "
                "add it to the rows",
            )
        return ShareBounds(low_S=low_S, high_S=high_S)


def spoken_among(shares: ShareBounds, spoken: ShareBounds) -> ShareBounds:
    """Bounds of each slice's share among the requests that a goal speaks of: share * spoken over
    the sum of these.
    """
    least_S, most_S = shares.low_S * spoken.low_S, shares.high_S * spoken.high_S
    apart_SS = ~np.eye(len(least_S), dtype=bool)
    # Of the others: the sum of their own ends, and what is left to them at the end that is looked
    # at, all in the slice that is spoken of the most, or the least.
    above_S, below_S = (apart_SS @ end_S for end_S in (most_S, least_S))
    if len(least_S) > 1:
        most_other_S = np.where(apart_SS, spoken.high_S, 0.0).max(axis=1)
        least_other_S = np.where(apart_SS, spoken.low_S, 1.0).min(axis=1)
        above_S = np.minimum(above_S, (1.0 - shares.low_S) * most_other_S)
        below_S = np.maximum(below_S, (1.0 - shares.high_S) * least_other_S)
    return ShareBounds(
        low_S=least_S / np.maximum(least_S + above_S, _NONE),
        high_S=most_S / np.maximum(most_S + below_S, _NONE),
    )


def _bounds_of(slices: int) -> int:
    """How many one-sided bounds the polytope of mixes rests on."""
    # of two tokens, a bound of one is a bound of the other
    tokens = 1 if slices == 2 else slices
    return 2 * tokens * (slices + 1)


def _extent(matrix: Doubles, limit: Doubles) -> tuple[Doubles, Doubles]:
    """The least and the greatest share of each slice over shares that sum to 1 and keep
    matrix @ share <= limit. Where none do, some least one exceeds its greatest.
    """
    slices = matrix.shape[1]
    if slices == 2:
        # share (1 - x, x): each constraint bounds x from one side
        slope, rest = matrix[:, 1] - matrix[:, 0], limit - matrix[:, 0]
        with np.errstate(divide="ignore", invalid="ignore"):
            at = rest / slope
        low = max(0.0, float(at[slope < 0].max(initial=0.0)))
        high = min(1.0, float(at[slope > 0].min(initial=1.0)))
        if (rest[slope == 0] < 0).any():
            low, high = 1.0, 0.0
        return np.array([1.0 - high, low]), np.array([1.0 - low, high])
    low_S, high_S = np.ones(slices), np.zeros(slices)
    for s in range(slices):
        for sign, found_S in ((1.0, low_S), (-1.0, high_S)):
            cost_S = sign * (np.arange(slices) == s)
            found = linprog(cost_S, A_ub=matrix, b_ub=limit, A_eq=np.ones((1, slices)), b_eq=[1.0])
            if not found.success:
                return np.ones(slices), np.zeros(slices)
            # beyond the tolerance of the solver
            found_S[s] = min(max(sign * (float(found.fun) - _SOLVED), 0.0), 1.0)
    return low_S, high_S


def _shares(names: Sequence[str], seen: Sequence[Rate]) -> str:
    return ", ".join(f"{rate.value:.1%} {name}" for name, rate in zip(names, seen, strict=True))
