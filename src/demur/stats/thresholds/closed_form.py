"""Promises about one score and one threshold, in closed form: integers decide, floats only carry
scores.

compared_N: natural-log probabilities that the threshold is compared with, float32, of rows drawn
independently of whatever made the scores. A threshold refuses q >= T. level, delta: in (0, 1);
"keeps" means P(rate > level) <= delta over the draw of the rows. Exact for continuous scores; ties
only make a threshold more careful. tests/validity holds every function to its word.

Source: Learn then Test (Angelopoulos et al. 2021, arXiv 2110.01052): fixed-sequence testing from
the careful end needs no correction for the number of thresholds, and for a monotone binary loss it
ends at an order statistic.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from demur.base.arrays import Floats
from demur.core.goals.promised import FalseRefusal, MissedRefusal, PromisedGoal, RefusalRate
from demur.core.rates import Rate, decimal_fraction, most_errors, rows_needed
from demur.core.threshold import ALWAYS, NEVER
from demur.stats.thresholds.cuts import cut_above, cut_below
from demur.stats.thresholds.results import (
    Certified,
    CertifiedRange,
    Failure,
    Infeasible,
    Reach,
    Uncertified,
    evidence,
)

METHOD = "Learn then Test, fixed sequence, exact binomial closed form (arXiv 2110.01052)"


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What both sides of one threshold should keep."""

    false_refusal: float  # level
    missed_refusal: float  # level
    delta_false: float
    delta_missed: float


def lowest_keeping(compared_M: Floats, of: int, level: float, delta: float) -> float | None:
    """The most lenient threshold that keeps "refused" <= level, when only these M of `of` rows can
    be so refused.

    NEVER where ties at q = 1, or rows that every threshold refuses (+inf), leave no other: it
    promises nothing then. None where `of` rows cannot promise it even without an error.
    """
    k = most_errors(of, level, delta)
    if k is None:
        return None
    if len(compared_M) <= k:
        return ALWAYS
    return float(
        cut_above(np.partition(compared_M, len(compared_M) - 1 - k)[len(compared_M) - 1 - k])
    )


def highest_keeping(compared_M: Floats, of: int, level: float, delta: float) -> float | None:
    """The strictest threshold that keeps "answered" <= level, when only these M of `of` rows can be
    so answered.

    None where `of` rows cannot promise it even without an error, or where more than so many are
    refused by no threshold (-inf).
    """
    k = most_errors(of, level, delta)
    if k is None:
        return None
    if int((compared_M < np.inf).sum()) <= k:
        return NEVER
    value = np.partition(compared_M, k)[k]
    return None if value == -np.inf else float(cut_below(value))


def certify_false_refusal(compared_N: Floats, level: float, delta: float) -> Certified | Failure:
    """The most lenient threshold that keeps the false-refusal rate, from the rows to be
    answered.
    """
    return _upward(_goal(FalseRefusal, level), compared_N, delta)


def certify_refusal_rate(compared_N: Floats, level: float, delta: float) -> Certified | Failure:
    """The most lenient threshold that keeps the refusal rate, from all rows; labels are not
    needed.
    """
    return _upward(_goal(RefusalRate, level), compared_N, delta)


def certify_missed_refusal(compared_N: Floats, level: float, delta: float) -> Certified | Failure:
    """The strictest threshold that keeps the missed-refusal rate, from the rows to be refused."""
    goal = _goal(MissedRefusal, level)
    rows, needed = len(compared_N), rows_needed(level, delta)
    if rows < needed:
        return too_few(goal, rows, needed)
    threshold = highest_keeping(compared_N, rows, level, delta)
    if threshold is None:
        reason = f"too many of the {rows} rows to be refused are refused by no threshold"
        return Infeasible(reason=reason, blocking=goal, reachable=(Reach(goal=goal, lowest=None),))
    missed = Rate(hits=rows - _at_or_above(compared_N, threshold), of=rows)
    return Certified(
        thresholds=(threshold,), evidence=(evidence(goal, missed, delta),), method=METHOD
    )


def certify_two_sided(
    comply_N: Floats, refuse_N: Floats, limits: Limits
) -> CertifiedRange | Failure:
    """Every threshold that keeps both rates, jointly with confidence 1 - (delta_false +
    delta_missed).

    comply_N, refuse_N: compared scores of the rows to be answered and of those to be refused.
    """
    low = certify_false_refusal(comply_N, limits.false_refusal, limits.delta_false)
    high = certify_missed_refusal(refuse_N, limits.missed_refusal, limits.delta_missed)
    if (
        isinstance(low, Certified)
        and isinstance(high, Certified)
        and low.thresholds[0] <= high.thresholds[0]
    ):
        return CertifiedRange(
            lowest=low.thresholds[0],
            highest=high.thresholds[0],
            evidence=low.evidence + high.evidence,
            method=f"{METHOD} from both ends, delta split",
        )
    infeasible = _two_sided_infeasible(comply_N, refuse_N, limits)
    if infeasible is not None:
        return infeasible
    for side in (low, high):
        if not isinstance(side, Certified):
            return side
    return _apart(low, high)  # type: ignore[arg-type]  # both are certified by now


def mean_false_refusal_threshold(compared_N: Floats, level: float) -> float:
    """The most lenient threshold whose false-refusal rate is <= level on average over draws of the
    rows; or NEVER.

    Conformal risk control (Angelopoulos et al. 2022, arXiv 2208.02814): (errors + 1) / (rows + 1)
    <= level. For dashboards: about every second deployment exceeds the level, so it is no promise
    about one.
    """
    rows = len(compared_N)
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


def _goal(kind: type[PromisedGoal], level: float) -> PromisedGoal:
    return kind(text=f"{kind.name} <= {level:g}", level=level)


def _upward(goal: PromisedGoal, compared_N: Floats, delta: float) -> Certified | Failure:
    rows = len(compared_N)
    threshold = lowest_keeping(compared_N, rows, goal.level, delta)
    if threshold is None:
        return too_few(goal, rows, rows_needed(goal.level, delta))
    if threshold == NEVER:
        lowest = float((compared_N == np.inf).mean())
        reason = (
            f"too many of {rows} rows to be answered score q = 1 or are in doubt: no "
            "threshold excludes them"
        )
        return Infeasible(
            reason=reason, blocking=goal, reachable=(Reach(goal=goal, lowest=lowest),)
        )
    refused = Rate(hits=_at_or_above(compared_N, threshold), of=rows)
    return Certified(
        thresholds=(threshold,), evidence=(evidence(goal, refused, delta),), method=METHOD
    )


def _at_or_above(compared_N: Floats, threshold: float) -> int:
    with np.errstate(divide="ignore"):
        return int((compared_N.astype(np.float64) >= np.log(threshold)).sum())


def _two_sided_infeasible(comply_N: Floats, refuse_N: Floats, limits: Limits) -> Infeasible | None:
    """Infeasible if no threshold meets both levels on these rows, with the trade-off; None if one
    does.

    Proven where the simultaneous lower bands (one-sided Dvoretzky-Kiefer-Wolfowitz, Massart 1990)
    of both curves leave no threshold either.
    """
    if not len(comply_N) or not len(refuse_N):
        return None
    cuts = np.append(np.unique(np.concatenate([comply_N, refuse_N])), np.float32(np.inf))
    false = 1.0 - np.searchsorted(np.sort(comply_N), cuts, side="left") / len(comply_N)
    missed = np.searchsorted(np.sort(refuse_N), cuts, side="left") / len(refuse_N)
    if ((false <= limits.false_refusal) & (missed <= limits.missed_refusal)).any():
        return None
    low_false = false - math.sqrt(math.log(1.0 / limits.delta_false) / (2 * len(comply_N)))
    low_missed = missed - math.sqrt(math.log(1.0 / limits.delta_missed) / (2 * len(refuse_N)))
    goals = (_goal(FalseRefusal, limits.false_refusal), _goal(MissedRefusal, limits.missed_refusal))
    best_false = float(false[missed <= limits.missed_refusal].min())
    best_missed = float(missed[false <= limits.false_refusal].min())
    return Infeasible(
        reason=f"on these rows {goals[0].text!r} costs at least {best_missed:.1%} missed refusals, "
        f"{goals[1].text!r} at least {best_false:.1%} false ones",
        blocking=goals[1],
        reachable=(
            Reach(goal=goals[0], lowest=best_false),
            Reach(goal=goals[1], lowest=best_missed),
        ),
        proven=not (
            (low_false <= limits.false_refusal) & (low_missed <= limits.missed_refusal)
        ).any(),
    )


def _apart(low: Certified, high: Certified) -> Uncertified:
    """Each side can be promised, not both: more rows narrow the gap."""
    missed = high.evidence[0]
    return Uncertified(
        reason=f"false refusals are certified from {low.thresholds[0]:.4g} on, missed ones up to "
        f"{high.thresholds[0]:.4g} only",
        blocking=missed.goal,
        rows=missed.rate.of,
        rows_needed=None,
        evidence=low.evidence + high.evidence,
    )
