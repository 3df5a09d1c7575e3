"""Promises about one score and one threshold, in closed form: integers decide, floats only carry
scores.

compared_N: natural-log probabilities that the threshold is compared with, float32, of rows drawn
independently of whatever made the scores. A threshold refuses q >= T. level, delta: in (0, 1);
"keeps" means P(rate > level) <= delta over the draw of the rows. Exact for continuous scores; rows
that tie are refused together or not at all, and the bound stays. Scores are taken as they are: who
promises for other engines gives the worst that these may make of them (GroupedScores.at_worst).
tests/validity holds every function to its word.

Source: Learn then Test (Angelopoulos et al. 2021, arXiv 2110.01052): fixed-sequence testing from
the careful end needs no correction for the number of thresholds, and for a monotone binary loss it
ends at an order statistic.
"""

from __future__ import annotations

import math

import numpy as np

from demur.base.arrays import Doubles, Floats
from demur.core.goals.promised import FalseRefusal, PromisedGoal
from demur.core.rates import decimal_fraction, rows_needed
from demur.core.threshold import ALWAYS, NEVER
from demur.stats.thresholds.cuts import cut_above, cut_below
from demur.stats.thresholds.results import (
    Certified,
    Failure,
    Infeasible,
    Reach,
    Uncertified,
    evidence,
)
from demur.stats.units import RateTest, count_rows, last_passing

METHOD = "Learn then Test, fixed sequence, exact binomial closed form (arXiv 2110.01052)"


def lowest_passing(compared_N: Doubles, test: RateTest) -> float:
    """The most lenient threshold at which the refused rows, as errors, pass a test; NEVER where
    even rows that every threshold refuses (+inf) fail it.

    compared_N: float32 values; -inf in rows that err at no threshold. The fixed sequence from
    strict to lenient ends at the first score whose inclusion fails; the test is monotone, so that
    score is found by bisection.
    """
    value_V = np.unique(compared_N[compared_N > -np.inf])[::-1]

    def passes(steps: int) -> bool:
        return test.passes(compared_N >= value_V[steps - 1])

    steps = last_passing(passes, len(value_V))
    if steps == len(value_V):
        return ALWAYS
    return float(cut_above(value_V[steps].astype(np.float32)))


def highest_passing(compared_N: Doubles, test: RateTest) -> float | None:
    """The strictest threshold at which the answered rows, as errors, pass a test.

    compared_N: float32 values; +inf in rows that err at no threshold, because every one refuses
    them. None where even rows that no threshold refuses (-inf) fail the test.
    """
    value_V = np.unique(compared_N[compared_N < np.inf])

    def passes(steps: int) -> bool:
        return test.passes(compared_N <= value_V[steps - 1])

    steps = last_passing(passes, len(value_V))
    if steps == len(value_V):
        return NEVER
    value = value_V[steps]
    return None if value == -np.inf else float(cut_below(value.astype(np.float32)))


def certify_false_refusal(compared_N: Floats, level: float, delta: float) -> Certified | Failure:
    """The most lenient threshold that keeps the false-refusal rate, from the rows to be answered.

    compared_N: their compared scores. Infeasible where ties at q = 1 or doubtful rows leave no
    threshold, Uncertified where there are too few rows.
    """
    goal = FalseRefusal(text=f"{FalseRefusal.name} <= {level:g}", level=level)
    rows = len(compared_N)
    counted = count_rows(np.ones(rows, dtype=bool), None, None, seed=0)
    test = counted.test(level, delta)
    if test is None:
        return too_few(goal, rows, rows_needed(level, delta))
    threshold = lowest_passing(compared_N.astype(np.float64), test)
    if threshold == NEVER:
        lowest = float((compared_N == np.inf).mean())
        reason = (
            f"too many of {rows} rows to be answered score q = 1 or are in doubt: no "
            "threshold excludes them"
        )
        return Infeasible(
            reason=reason, blocking=goal, reachable=(Reach(goal=goal, lowest=lowest),)
        )
    with np.errstate(divide="ignore"):
        refused_N = compared_N.astype(np.float64) >= np.log(threshold)
    seen = evidence(goal, counted, refused_N, delta)
    return Certified(thresholds=(threshold,), evidence=(seen,), method=METHOD)


def mean_false_refusal_threshold(compared_N: Floats, level: float) -> float:
    """The most lenient threshold whose false-refusal rate is <= level on average over draws of the
    rows; or NEVER.

    Conformal risk control (Angelopoulos et al. 2022, arXiv 2208.02814): (errors + 1) / (rows + 1)
    <= level. For dashboards: about every second deployment exceeds the level, so it is no promise
    about one.
    """
    rows = len(compared_N)
    # (k + 1) / (rows + 1) <= level, solved for k in exact fractions: floats would err at ties.
    k = math.floor(decimal_fraction(level) * (rows + 1)) - 1
    return NEVER if k < 0 else float(cut_above(np.sort(compared_N)[max(rows - 1 - k, 0)]))


def too_few(goal: PromisedGoal, rows: int, needed: int, tested: str = "") -> Uncertified:
    """Not even rows without an error could promise it. tested: at which level and delta, where
    these were divided.
    """
    divided = f" ({tested})" if tested else ""
    reason = (
        f"{rows} rows cannot promise {goal.text!r}, even with no error among them{divided}: "
        f"{needed} could"
    )
    return Uncertified(reason=reason, blocking=goal, rows=rows, rows_needed=needed, evidence=())
