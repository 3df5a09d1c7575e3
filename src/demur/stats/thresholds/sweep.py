"""Sweeps: what every threshold does to sorted scores at once, and the exact optima over its cuts.

1. Scores are sorted once. A threshold refuses a prefix of them, so cumulative counts answer every
   threshold by a look-up (risk_control: separability).
2. Optima are sought over cuts in integers, so that a tie is a tie; ties go to the stricter cut.

Under rule `heaviest` the heaviest category of a row does not depend on any threshold, so a row's
decision depends on one threshold only, and every count is a sum over groups of functions of one
threshold. Shapes: M rows of a sweep, P = M + 1 prefixes, J cuts, T thresholds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np

from demur.base.arrays import Doubles, Floats, Ints
from demur.core.rates import decimal_fraction
from demur.core.threshold import NEVER
from demur.stats.thresholds.cuts import cut_above, cut_below

NO_CATEGORY = -1  # no row has this label
Hit = Literal["caught", "own"]

_INT64_SAFE = 2**62


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SweepCounts:
    """Refused requests of a sweep, by label; one entry per threshold."""

    refused: Ints  # requests at or above the threshold
    false: Ints  # of these, to be answered
    caught: Ints  # of these, to be refused, with whatever category
    own: Ints  # of these, to be refused with the sweep's own category; 0 for a pooled sweep


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Sweep:
    """M rows that one threshold decides, sorted once.

    A cut is a prefix length that some threshold refuses: that of NEVER, then the end of each run of
    tied scores. NEVER refuses doubtful rows only.
    """

    logq_M: Doubles  # float32 values, descending; +inf where doubtful
    request_P: Ints  # requests that the first 0, 1, ..., M rows stand for
    caught_P: Ints  # of these, to be refused
    own_P: Ints  # of these, of the sweep's own category
    cut_J: Ints  # cuts, as numbers of rows, ascending: strict to lenient
    # the threshold of each cut: NEVER, then just below the last score that it includes
    threshold_J: Doubles

    def counts(self, prefix: Ints) -> SweepCounts:
        """The counts when the first `prefix` rows are refused, for each entry of prefix."""
        refused, caught = self.request_P[prefix], self.caught_P[prefix]
        return SweepCounts(
            refused=refused, false=refused - caught, caught=caught, own=self.own_P[prefix]
        )

    @property
    def at_cuts(self) -> SweepCounts:
        """The counts at every cut, strict to lenient; shape (J,)."""
        return self.counts(self.cut_J)

    def at_thresholds(self, threshold_T: Doubles) -> SweepCounts:
        """The counts at any thresholds, probabilities in [0, 1] or NEVER: a binary search each."""
        with np.errstate(divide="ignore"):
            log_threshold_T = np.log(threshold_T)
        return self.counts(np.searchsorted(-self.logq_M, -log_threshold_T, side="right"))


def sweep_of(
    logq_M: Floats, label_M: Ints, own: int = NO_CATEGORY, count_M: Ints | None = None
) -> Sweep:
    """The sweep of these scores and labels. own: the label of the sweep's category. count_M: the
    requests that each row stands for; None: one each.

    logq_M: natural log, float32, finite; +inf in rows that every threshold refuses.
    """
    order = np.argsort(-logq_M, kind="stable")
    logq_M, label_M = logq_M[order], label_M[order]
    count_M = np.ones(len(order), dtype=np.int64) if count_M is None else count_M[order]
    always = int((logq_M == np.inf).sum())
    # A row ends a run of ties where some threshold includes it and excludes the next row. The last
    # row always does; rows that every threshold refuses end none but the cut of NEVER.
    last_M = np.ones(len(logq_M), dtype=bool)
    last_M[:-1] = cut_above(logq_M[1:]) <= cut_below(logq_M[:-1])
    last_M[:always] = False
    ends = np.flatnonzero(last_M)
    return Sweep(
        logq_M=logq_M.astype(np.float64),
        request_P=_prefixes(count_M),
        caught_P=_prefixes(np.where(label_M != 0, count_M, 0)),
        own_P=_prefixes(np.where(label_M == own, count_M, 0)),
        cut_J=np.concatenate([[always], ends + 1]),
        threshold_J=np.concatenate([[NEVER], cut_below(logq_M[ends])]),
    )


def _prefixes(count_M: Ints) -> Ints:
    return np.concatenate([[0], np.cumsum(count_M, dtype=np.int64)])


def best_linear(
    sweeps: Sequence[Sweep], gain: Fraction, cost: Fraction, hit: Hit = "caught"
) -> list[int]:
    """Per sweep the index of the strictest cut that maximises gain * hits - cost * other refusals.
    gain, cost >= 0.

    hit: what counts as a hit. "caught": to be refused, with whatever category. "own": with the
    sweep's own.
    """
    # One common denominator: gain * hits - cost * others, compared in integers.
    per_hit, per_other = gain.numerator * cost.denominator, cost.numerator * gain.denominator
    return [_first_best(sweep, per_hit, per_other, hit) for sweep in sweeps]


def best_fbeta(
    sweeps: Sequence[Sweep], positives: int, beta: float, hit: Hit = "caught"
) -> tuple[list[int], Fraction]:
    """The cuts, one per sweep, with the greatest F-beta; and that F-beta.

    F = (1 + b2) TP / (b2 positives + TP + FP), b2 = beta squared, over the rows of all sweeps
    together; TP as `hit` says. "caught" and all rows to be refused: F of refusing what ought to be
    refused. "own" and all sweeps: micro F of the categories; one sweep and its category's rows: F
    of that category. Dinkelbach's iteration (1967): F's maximum F* is where max of (1 + b2 - F*) TP
    - F* FP equals F* b2 positives, and that maximum separates into one per sweep. The global
    optimum, in exact fractions. Needs positives > 0.
    """
    # f rises strictly to F* and then repeats: fractions end the loop exactly, without a tolerance.
    b2 = decimal_fraction(beta) ** 2
    f = Fraction(0)
    while True:
        cuts = best_linear(sweeps, 1 + b2 - f, f, hit)
        hits, other = totals(sweeps, cuts, hit)
        better = (1 + b2) * hits / (b2 * positives + hits + other)
        if better == f:
            return cuts, f
        f = better


def most_caught(sweeps: Sequence[Sweep], budget: int) -> tuple[list[int], int]:
    """The cuts with the most rows caught at no more than `budget` false refusals in total; and how
    many.

    A multiple-choice knapsack, by dynamic programming over the budget: exact, O(sweeps * budget^2).
    No promise: what the best policy on these rows could do, an upper bound for those that promise.
    Ties go to fewer false refusals.
    """
    best_B, taken = np.zeros(budget + 1, dtype=np.int64), []
    for sweep in sweeps:
        # Per number of false refusals 0..budget the strictest cut that catches the most: the last
        # cut within the budget, then the first cut that catches as many.
        last_B = np.searchsorted(sweep.at_cuts.false, np.arange(budget + 1), side="right") - 1
        caught_J = sweep.at_cuts.caught
        cut_B = np.searchsorted(caught_J, caught_J[last_B], side="left")
        gain_B = sweep.at_cuts.caught[cut_B]
        spent_B = np.zeros(budget + 1, dtype=np.int64)
        # best_B[b]: most rows caught by the sweeps so far with b false refusals at most. This sweep
        # spends some of them, the sweeps before it the rest.
        found_B = best_B + gain_B[0]
        for spend in range(1, budget + 1):
            offer_B = best_B[: budget + 1 - spend] + gain_B[spend]
            better_B = offer_B > found_B[spend:]
            found_B[spend:][better_B], spent_B[spend:][better_B] = offer_B[better_B], spend
        best_B = found_B
        taken.append((cut_B, spent_B))
    # Read the choices back, last sweep first; argmax takes the fewest false refusals.
    left, cuts = int(np.argmax(best_B)), []
    for cut_B, spent_B in reversed(taken):
        cuts.append(int(cut_B[spent_B[left]]))
        left -= int(spent_B[left])
    return cuts[::-1], int(best_B.max())


def totals(sweeps: Sequence[Sweep], cuts: Sequence[int], hit: Hit = "caught") -> tuple[int, int]:
    """Hits and other refusals at these cuts, over all sweeps."""
    at = [
        (_hits(sweep, hit), sweep.at_cuts.refused, cut)
        for sweep, cut in zip(sweeps, cuts, strict=True)
    ]
    return sum(int(h[j]) for h, _, j in at), sum(int(n[j] - h[j]) for h, n, j in at)


def _hits(sweep: Sweep, hit: Hit) -> Ints:
    return sweep.at_cuts.caught if hit == "caught" else sweep.at_cuts.own


def _first_best(sweep: Sweep, per_hit: int, per_other: int, hit: Hit) -> int:
    """The strictest cut that maximises per_hit * hits - per_other * other refusals."""
    hits_J, refused_J = _hits(sweep, hit), sweep.at_cuts.refused
    fits = max(per_hit, per_other) * (int(sweep.request_P[-1]) + 1) < _INT64_SAFE
    number = np.int64 if fits else object  # Python integers where int64 would overflow
    return int(
        np.argmax(hits_J.astype(number) * per_hit - (refused_J - hits_J).astype(number) * per_other)
    )
