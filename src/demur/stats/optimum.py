"""Exact optima over cuts. All arithmetic is on integers, so a tie is a tie; ties go to the stricter cut.

Several sweeps stand for several thresholds that decide disjoint sets of rows: every count is a sum over the sweeps.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from demur.stats.sweep import Sweep

_INT64_SAFE = 2**62


def exact(number: float) -> Fraction:
    """The decimal number that a person meant by this float: 0.1 is one tenth."""
    return Fraction(str(number))


def best_linear(sweeps: Sequence[Sweep], gain: Fraction, cost: Fraction) -> list[int]:
    """Per sweep the index of the strictest cut that maximises gain * caught - cost * false. gain, cost >= 0."""
    per_caught, per_false = gain.numerator * cost.denominator, cost.numerator * gain.denominator
    return [_first_best(sweep, per_caught, per_false) for sweep in sweeps]


def best_fbeta(sweeps: Sequence[Sweep], to_refuse: int, beta: float) -> tuple[list[int], Fraction]:
    """The cuts, one per sweep, with the greatest F-beta of refusing what ought to be refused; and that F-beta.

    F = (1 + b2) TP / (b2 to_refuse + TP + FP), b2 = beta squared, over the rows of all sweeps together. Dinkelbach's
    iteration (1967): F's maximum F* is where max of (1 + b2 - F*) TP - F* FP equals F* b2 to_refuse, and that maximum
    separates into one per sweep. The global optimum, in exact fractions. Needs to_refuse > 0.
    """
    b2 = exact(beta) ** 2
    f = Fraction(0)
    while True:
        cuts = best_linear(sweeps, 1 + b2 - f, f)
        caught, false = totals(sweeps, cuts)
        better = (1 + b2) * caught / (b2 * to_refuse + caught + false)
        if better == f:
            return cuts, f
        f = better


def totals(sweeps: Sequence[Sweep], cuts: Sequence[int]) -> tuple[int, int]:
    """Rows caught and rows falsely refused at these cuts, over all sweeps."""
    at = [(sweep.at_cuts, cut) for sweep, cut in zip(sweeps, cuts, strict=True)]
    return sum(int(c.caught[j]) for c, j in at), sum(int(c.false[j]) for c, j in at)


def _first_best(sweep: Sweep, per_caught: int, per_false: int) -> int:
    counts = sweep.at_cuts
    fits = max(per_caught, per_false) * len(sweep.caught_P) < _INT64_SAFE
    number = np.int64 if fits else object  # Python integers where int64 would overflow
    return int(np.argmax(counts.caught.astype(number) * per_caught - counts.false.astype(number) * per_false))
