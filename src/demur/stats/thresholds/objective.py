"""Objectives: which of the thresholds that keep every promise is the best, and how to find it.

Shapes: N rows, M rows of one group by descending score, J cuts among them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from demur.base.arrays import Bools, Doubles
from demur.core.goals.counts import Rows
from demur.core.goals.kinds import Optimum
from demur.core.threshold import ALWAYS, NEVER
from demur.stats.thresholds.cuts import cut_below, cut_between
from demur.stats.thresholds.problem import GroupedScores, Loss, Objective


def objective_of(goal: Optimum | None, grouped: GroupedScores, losses: Sequence[Loss]) -> Objective:
    """The objective of an optimum goal; without one, of what the goals leave open: see _open_worth.

    Raises GoalError on an optimum that cannot be weighed beside promises.
    """
    objective = _objective_of(goal, grouped, losses)
    count_N = grouped.rows.count_N
    worth_N = objective.worth_N if count_N is None else objective.worth_N * count_N
    # Doubtful rows are refused at every threshold: their worth is no threshold's merit.
    return replace(objective, worth_N=np.where(grouped.always_N, 0.0, worth_N), count_N=count_N)


def _objective_of(
    goal: Optimum | None, grouped: GroupedScores, losses: Sequence[Loss]
) -> Objective:
    label_N = grouped.rows.label_N
    should_N = label_N != 0
    if goal is None:
        return Objective(worth_N=_open_worth(should_N, losses), should_N=should_N)
    rows = Rows(label_N=label_N, heaviest_N=grouped.heaviest_N, names=grouped.names)
    return Objective(worth_N=goal.worth(rows), should_N=should_N, beta2=goal.beta2)


def _open_worth(should_N: Bools, losses: Sequence[Loss]) -> Doubles:
    """The worth of refusing each row where no optimum is asked for: shares of errors, as far as no
    goal bounds them.

    A row to be refused gains its share of these, a row to be answered costs its share, each nearly
    nothing where a goal bounds the error. Where goals bound all false refusals, what is caught
    counts in full. So `false_refusal <= a` catches the most, then errs the least; `missed_refusal
    <= b` alone errs the least, then catches the most; a goal about one category leaves the others
    to Youden's index.
    """
    none_N = np.zeros(len(should_N), dtype=bool)
    refusal_N, answer_N = (
        np.any([loss.could_err_N for loss in losses if loss.when == when] or [none_N], axis=0)
        for when in ("refused", "answered")
    )
    if (~should_N & ~refusal_N).any():
        bounded_N = np.where(should_N, answer_N, refusal_N)
    else:
        bounded_N = ~should_N
    rows = len(should_N)
    refuse = int(should_N.sum())
    share_N = np.where(should_N, rows / max(refuse, 1), -rows / max(rows - refuse, 1))
    # All bounded rows together weigh less than one that is not.
    return np.where(bounded_N, share_N / (2.0 * rows + 2.0), share_N)


def best_within(
    grouped: GroupedScores, objective: Objective, low: Sequence[float], high: Sequence[float]
) -> tuple[float, ...]:
    """The best threshold of each group between its limits, on all rows; ties go to the stricter
    one.

    A summed worth separates over the groups, so each group is optimised alone. F-beta separates at
    its own maximum (Dinkelbach 1967), which the iteration reaches. Beside locked categories neither
    separates: the result is the best vector that moving one threshold at a time arrives at.
    """
    if objective.beta2 is None:
        return _best_linear(grouped, objective.worth_N, low, high)
    return _best_fbeta(grouped, objective, low, high)[0]


def linear_worth(grouped: GroupedScores, objective: Objective, part_N: Bools) -> Doubles:
    """The worth of refusing each row of a part, negative where it costs; 0 in all other rows.

    F-beta is no sum over rows. Near its maximum on the part it changes as a sum does, with the
    weights of Dinkelbach's last step.
    """
    worth_N = objective.worth_N
    if objective.beta2 is not None:
        own = replace(objective, should_N=objective.should_N & part_N)
        groups = len(grouped.groups)
        f = _best_fbeta(grouped, own, [ALWAYS] * groups, [NEVER] * groups, part_N)[1]
        worth_N = _slope(objective, f)
    return np.where(part_N & ~grouped.always_N, worth_N, 0.0)


def _best_fbeta(
    grouped: GroupedScores,
    objective: Objective,
    low: Sequence[float],
    high: Sequence[float],
    part_N: Bools | None = None,
) -> tuple[tuple[float, ...], float]:
    """The thresholds of greatest F-beta between the limits, and that F-beta. part_N: the rows that
    count; None: all.
    """
    part_N = np.ones(len(grouped.logq_N), dtype=bool) if part_N is None else part_N
    # Maximise (1 + b2 - f) TP - f FP for the best f so far; f rises until it is the maximum.
    f, best = 0.0, tuple(high)
    while True:
        found = _best_linear(grouped, np.where(part_N, _slope(objective, f), 0.0), low, high)
        better = objective.value(grouped.refused(found) & part_N)
        if better <= f + 1e-12:
            # Coordinate ascent beside locks may end below an earlier vector.
            return (best if grouped.locked and better < f else found), f
        f, best = better, found


def _slope(objective: Objective, f: float) -> Doubles:
    """What each refused row adds to F-beta's numerator less f times its denominator."""
    slope_N = np.where(objective.should_N, 1.0 + (objective.beta2 or 0.0) - f, -f)
    return slope_N if objective.count_N is None else slope_N * objective.count_N


def _best_linear(
    grouped: GroupedScores, worth_N: Doubles, low: Sequence[float], high: Sequence[float]
) -> tuple[float, ...]:
    """The thresholds between low and high that refuse the most summed worth."""
    limits = list(zip(low, high, strict=True))
    alone = [_best_cut(grouped.compared_with(g), worth_N, own) for g, own in enumerate(limits)]
    if not grouped.locked:
        return tuple(alone)
    ends = [_by_turns(grouped, worth_N, limits, start) for start in (alone, list(high), list(low))]
    return max(ends, key=lambda by_group: float(worth_N[grouped.refused(by_group)].sum()))


_MOST_TURNS = 20


def _by_turns(
    grouped: GroupedScores,
    worth_N: Doubles,
    limits: Sequence[tuple[float, float]],
    start: Sequence[float],
) -> tuple[float, ...]:
    """Thresholds that no move of a single one improves, from a start between the limits."""
    by_group = list(start)
    for _ in range(_MOST_TURNS):
        before = list(by_group)
        for g, own in enumerate(limits):
            # Only rows that no other threshold refuses can change what this one is worth.
            others_N = grouped.refused([*by_group[:g], NEVER, *by_group[g + 1 :]])
            by_group[g] = _best_cut(
                np.where(others_N, -np.inf, grouped.compared_with(g)), worth_N, own
            )
        if by_group == before:
            break
    return tuple(by_group)


def _best_cut(logq_N: Doubles, worth_N: Doubles, limits: tuple[float, float]) -> float:
    """The threshold between limits that refuses the most worth among rows with these scores, the
    fewest of them, and the one halfway to the next row; the lower limit where no row is left above
    it that is not refused.

    Halfway, because other requests, and the scores of other engines, fall into the gap from either
    side. Down to the limit, because there the worth still rises and only the promise ends it.
    """
    least, most = limits
    with np.errstate(divide="ignore"):
        log_low, log_high = np.log(least), np.log(most)
    # Rows below the lower limit are never refused, doubtful ones (+inf) always: neither matters.
    rows = np.flatnonzero((logq_N >= log_low) & np.isfinite(logq_N))
    rows = rows[np.argsort(-logq_N[rows], kind="stable")]
    logq_M, value_P = logq_N[rows], np.concatenate([[0.0], np.cumsum(worth_N[rows])])
    must = int((logq_M >= log_high).sum())  # rows that the upper limit refuses already
    # A cut ends a run of equal scores; "must" itself stands for the upper limit.
    ends = np.flatnonzero(np.append(logq_M[1:] < logq_M[:-1], True)[: len(logq_M)]) + 1
    cuts = np.concatenate([[must], ends[ends > must]])
    value_J = value_P[cuts]
    # The first cut within rounding of the maximum is the strictest of the best.
    cut = int(cuts[np.argmax(value_J > value_J.max() - 1e-9 * max(1.0, abs(value_J.max())))])
    if cut == must:
        return most
    if cut == len(logq_M) and least > ALWAYS:
        return least
    above, below = (logq_M[at : at + 1].astype(np.float32) for at in (cut - 1, cut))
    found = cut_between(above, below) if len(below) else cut_below(above)
    return min(max(float(found[0]), least), most)
