"""Audit of a promise on a finite pool of requests: whom to label next, and what the labels prove.

1. Of the N requests of the pool, decided already, one is drawn at a time, with replacement, with a
   probability that its scores give: errors that are likely are drawn often. Probabilities are fixed
   before the first label.
2. A label gives v = error - level * (the goal speaks of it). The mean of v over the pool is above 0
   exactly if the rate is above the level; v / (N probability) has that mean (importance sampling).
3. Two wealths grow with each label: bets that the mean is at most 0, and bets that it is above. One
   that reaches 1 / alpha settles the question, whenever one looks (Ville 1939): a wrong verdict has
   probability alpha at most, however wrong the scores are. Bets against a bounded mean:
   Waudby-Smith and Ramdas (arXiv 2010.09686); audits by weighted draws: Shekhar, Xu, Lipton,
   Liang and Ramdas (arXiv 2305.06884).

The verdict is about this pool. No request is taken to be independent of another. Shapes: N
requests, C columns of a score, T draws, B sizes of bets.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from demur.base.arrays import Bools, Doubles, Ints
from demur.base.errors import DataError
from demur.core.goals.counts import Rows
from demur.core.goals.promised import PromisedGoal

Verdict = Literal["kept", "broken", "undecided"]

# Shares of the draws, of which the best pair is chosen: of requests that can be no error, and, of
# those that can, of even draws.
_NO_ERROR = (0.02, 0.05, 0.1, 0.2, 0.4)
_EVENLY = (0.1, 0.2, 0.35, 0.5, 0.75, 1.0)
_BETS = 3  # sizes of bets around the best, each half of the one before


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Pool:
    """N decided requests and a goal whose rate among them is asked for."""

    goal: PromisedGoal
    names: tuple[str, ...]  # of the categories, in order
    refused_N: Bools
    heaviest_N: Ints  # column of the category that each is, or would be, refused with
    deferred_N: Bools | None = None  # None: nothing is deferred

    def value(self, label_N: Ints) -> Doubles:
        """error - level * (the goal speaks of it), if these were the labels; shape (N,)."""
        rows = Rows(label_N=label_N, heaviest_N=self.heaviest_N, names=self.names)
        among_N = self.goal.among(label_N, rows.columns(self.goal.categories))
        among_N &= self.goal.counts(rows, self.refused_N)
        wrong_N = self.goal.erring(
            self.refused_N,
            self.refused_N if self.deferred_N is None else self.refused_N | self.deferred_N,
        )
        error_N = among_N & self.goal.could_err(rows) & wrong_N
        return error_N.astype(np.float64) - self.goal.level * among_N

    @property
    def values(self) -> Doubles:
        """The value of each request under each label, shape (N, C)."""
        size = len(self.refused_N)
        return np.stack(
            [self.value(np.full(size, c, dtype=np.int64)) for c in range(len(self.names) + 1)],
            axis=1,
        )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DrawPlan:
    """How requests are drawn, and how much is bet."""

    probability_N: Doubles  # of each draw; sums to 1
    kept_B: Doubles  # sizes of bets that the level is kept
    broken_B: Doubles  # that it is not
    labels: int | None  # that will probably settle it, if the scores are right; None: none will


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolVerdict:
    """What the labels so far prove of the rate in the pool."""

    verdict: Verdict
    labels: int  # counted
    p_kept: float  # of "the rate is above the level": small means kept; valid at any time
    p_broken: float  # of "the rate is at most the level": small means broken


def plan_draws(pool: Pool, q_NC: Doubles, alpha: float) -> DrawPlan:
    """Plan the draws from probabilities of each label.

    q_NC: what the scores say of each label; wrong ones cost labels, never the guarantee. Raises
    DataError where no request can be of the goal's kind.
    """
    value_NC = pool.values
    could_err_N: Bools = np.asarray((value_NC > 0.0).any(axis=1))
    speaks_N: Bools = np.asarray((value_NC != 0.0).any(axis=1))
    if not speaks_N.any():
        raise DataError(
            f"goal {pool.goal.text!r}: it speaks of no request of the pool", "give other requests"
        )
    # The variance of a weighted draw is least where probabilities go with the root of v squared.
    wanted_N: Doubles = np.sqrt((q_NC * value_NC**2).sum(axis=1))
    even_N = _share(could_err_N.astype(np.float64))
    likely_N = _share(np.where(could_err_N, wanted_N, 0.0))
    # A request that can be no error only adds to what the level allows, so its weight may be large:
    # few of these are drawn.
    other_N = _share(np.where(speaks_N & ~could_err_N, wanted_N + 1e-9, 0.0))
    plans = []
    for no_error in _NO_ERROR:
        for even in _EVENLY:
            could_err = even * even_N + (1.0 - even) * likely_N
            drawn_N = np.asarray((1.0 - no_error) * could_err + no_error * other_N)
            plans.append(_planned(value_NC, q_NC, _share(drawn_N), alpha))
    return min(plans, key=lambda plan: math.inf if plan.labels is None else plan.labels)


def _share(weight_N: Doubles) -> Doubles:
    """The weights, scaled to sum to 1; all 0 where there are none."""
    return np.asarray(weight_N / max(float(weight_N.sum()), 1e-300), dtype=np.float64)


def settle(
    pool: Pool, plan: DrawPlan, drawn: Sequence[int], label_T: Sequence[int], alpha: float
) -> PoolVerdict:
    """The verdict after these labels, in the order of the draws. drawn: requests, as indices."""
    if not len(drawn):
        return PoolVerdict(verdict="undecided", labels=0, p_kept=1.0, p_broken=1.0)
    label_N = np.zeros(len(pool.refused_N), dtype=np.int64)
    at_T, labels_T = np.asarray(drawn, dtype=np.int64), np.asarray(label_T, dtype=np.int64)
    label_N[at_T] = labels_T
    weighted_T = pool.value(label_N)[at_T] / (len(label_N) * plan.probability_N[at_T])
    p_kept, p_broken = _p_value(-weighted_T, plan.kept_B), _p_value(weighted_T, plan.broken_B)
    verdict: Verdict = "undecided"
    # Each verdict is wrong with probability alpha at most, because only one of the nulls can hold.
    if min(p_kept, p_broken) <= alpha:
        verdict = "kept" if p_kept <= p_broken else "broken"
    return PoolVerdict(verdict=verdict, labels=len(drawn), p_kept=p_kept, p_broken=p_broken)


def _planned(value_NC: Doubles, q_NC: Doubles, probability_N: Doubles, alpha: float) -> DrawPlan:
    """The plan with these probabilities: bets up to the largest that cannot ruin, and the labels
    that the better of the two directions will take.
    """
    possible_N = probability_N > 0.0
    weighted_NC = value_NC[possible_N] / (len(value_NC) * probability_N[possible_N, None])
    weight_NC = probability_N[possible_N, None] * q_NC[possible_N]
    kept_B, kept = _bets(-weighted_NC, weight_NC)
    broken_B, broken = _bets(weighted_NC, weight_NC)
    growth = max(kept, broken)
    needed = math.log(_BETS / alpha) / growth if growth > 0.0 else math.inf
    labels = None if needed > 10**9 else math.ceil(needed)
    return DrawPlan(probability_N=probability_N, kept_B=kept_B, broken_B=broken_B, labels=labels)


def _bets(gain_NC: Doubles, weight_NC: Doubles) -> tuple[Doubles, float]:
    """Sizes of bets on these gains: the one whose wealth grows fastest by the scores, its half and
    its double; and that growth a draw. The largest bet is nearly ruined by the worst gain.
    """
    most = 0.99 / max(float(-gain_NC.min()), 1e-12)
    sizes = most * 0.5 ** np.arange(12)
    growth = [float((weight_NC * np.log1p(bet * gain_NC)).sum()) for bet in sizes]
    best = sizes[int(np.argmax(growth))]
    return np.minimum(best * np.array([2.0, 1.0, 0.5]), most), max(growth)


def _p_value(gain_T: Doubles, bet_B: Doubles) -> float:
    """1 / the highest mean wealth so far of constant bets on gains whose mean is at most 0."""
    log_TB = np.cumsum(np.log1p(np.outer(gain_T, bet_B)), axis=0)
    highest = float(np.logaddexp.reduce(log_TB, axis=1).max() - math.log(len(bet_B)))
    return math.exp(-max(highest, 0.0))
