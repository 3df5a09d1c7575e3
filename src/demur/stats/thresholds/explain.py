"""Why a task was not certified (too few rows, or scores that do not allow it), and what would do.

1. A linear program over the cuts of all groups bounds from below what thresholds can reach. Above a
   level, the goals are infeasible on these rows.
2. Else rows are too few: the number that would probably do follows from the rate at the thresholds
   that come closest.
3. A vacuous promise is kept by refusing nothing that ought to be refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from scipy.optimize import linprog

from demur.core.rates import Rate
from demur.core.threshold import NEVER
from demur.stats.thresholds.cuts import cut_below
from demur.stats.thresholds.plan import rows_likely
from demur.stats.thresholds.problem import GroupedScores, LearnTestSplit, Loss
from demur.stats.thresholds.procedures.search import CutGrid, candidates, cut_grid
from demur.stats.thresholds.procedures.task import CertifyTask, NotCertified, evidence_of
from demur.stats.thresholds.results import Failure, Infeasible, Reach, Uncertified

_SLACK = 1e-9  # of a rate, for the rounding of the linear program


def failure_of(task: CertifyTask, found: Uncertified | NotCertified) -> Failure:
    """The reason why a procedure certified nothing, in words and with the rows that would do."""
    if isinstance(found, Uncertified):
        return found
    grouped, losses = task.grouped, task.losses
    if found.vacuous:
        failure: Failure = _vacuous(grouped, losses, found.delta, found.split)
    else:
        failure = explain(grouped, losses, found.delta, found.split, task.fixed)
    # The numbers above are those of one look at all rows.
    if found.looks_again and isinstance(failure, Uncertified):
        words = f"by the labels so far, {failure.reason}"
        return replace(failure, reason=words, rows_needed=None)
    return failure


def explain(
    grouped: GroupedScores,
    losses: Sequence[Loss],
    delta: float,
    split: LearnTestSplit,
    fixed: Mapping[int, float],
) -> Failure:
    """Infeasible if no thresholds meet all levels on all rows, else Uncertified with the rows that
    would do.

    A linear program over mixtures of cuts bounds from below what any threshold vector can reach (of
    at most 200 cuts per category): what it cannot reach, none of them can.
    """
    everyone_N = np.ones(len(grouped.logq_N), dtype=bool)
    # The grid is learnt and tested on all rows: it explains, nothing is certified by it.
    worth_N = (grouped.rows.label_N != 0).astype(np.float64)
    menu = cut_grid(
        grouped, losses, worth_N, LearnTestSplit(learn_N=everyone_N, test_N=everyone_N), fixed
    )
    lone = _reach_alone(menu, losses)
    # Beside locked categories the menu counts rows twice: its bounds are none, and nothing is
    # called infeasible.
    order = (
        ()
        if grouped.locked
        else sorted(range(len(losses)), key=lambda at: losses[at].goal.soft or 0)
    )
    # Hard goals first, then by priority: the first not met beside earlier ones blocks.
    for at in order:
        before = [
            o
            for o in range(len(losses))
            if (losses[o].goal.soft or 0, o) < (losses[at].goal.soft or 0, at)
        ]
        lowest = lowest_rate(menu, at, before)
        if lowest is None or lowest > losses[at].level + _SLACK:
            return Infeasible(reason=_costs(losses, lone), blocking=losses[at].goal, reachable=lone)
    refused_N = grouped.refused(candidates(menu, 2)[0])
    evidence = evidence_of(losses, refused_N, split.test_N, delta)
    worst = max(range(len(losses)), key=lambda at: evidence[at].p_value)
    seen, loss = evidence[worst], losses[worst]
    whole = loss.rate(refused_N, everyone_N)
    words = (
        f"{loss.goal.text!r}: {seen.rate.hits} of {seen.rate.of} tested rows err at the "
        "thresholds that come closest"
    )
    kept = seen.p_value <= delta
    if kept:  # they were found with all rows in view, and the procedure must not choose so
        words += (
            f", which would do (at delta {delta:.3g} the rate may be {seen.upper:.4f}); the "
            "thresholds that are tested in an order learnt on other rows stop short of them"
        )
    else:
        words += f"; at delta {delta:.3g} the rate may be {seen.upper:.4f}, above {loss.level:g}"
    return Uncertified(
        reason=words,
        blocking=loss.goal,
        rows=whole.of,
        rows_needed=None if kept else _needed(whole, loss, delta, split),
        evidence=evidence,
    )


def _vacuous(
    grouped: GroupedScores, losses: Sequence[Loss], delta: float, split: LearnTestSplit
) -> Uncertified:
    """Uncertified, because the certified thresholds refuse no row that ought to be refused.

    The rows that would do are worked out at the thresholds that catch the first such row at the
    least cost, on all rows.
    """
    everyone_N = np.ones(len(grouped.logq_N), dtype=bool)
    cheapest = min(
        (_worst_rate(losses, grouped, first) for first in _first_caught(grouped)),
        key=lambda t: t[0],
        default=None,
    )
    loss, rate = (
        (losses[0], losses[0].rate(everyone_N & False, everyone_N))
        if cheapest is None
        else cheapest[1:]
    )
    caught = int((grouped.rows.label_N != 0).sum())
    words = (
        f"the thresholds that {loss.goal.text!r} certifies at delta {delta:.3g} refuse none of the "
        f"{caught} rows to be refused: a promise kept by doing nothing. To catch the first of "
        f"them, {rate.hits} of {rate.of} rows err"
    )
    needed = _needed(rate, loss, delta, split) if rate.value < loss.level else None
    return Uncertified(
        reason=words, blocking=loss.goal, rows=rate.of, rows_needed=needed, evidence=()
    )


def _first_caught(grouped: GroupedScores) -> list[tuple[float, ...]]:
    """Per group the vector that refuses its likeliest row to be refused, and nothing in other
    groups.
    """
    found = []
    for g in range(len(grouped.groups)):
        logq_N = grouped.compared_with(g)
        own_N = (grouped.rows.label_N != 0) & np.isfinite(logq_N)
        if own_N.any():
            cut = float(cut_below(logq_N[own_N].max(keepdims=True).astype(np.float32))[0])
            found.append(tuple(cut if at == g else NEVER for at in range(len(grouped.groups))))
    return found


def _worst_rate(
    losses: Sequence[Loss], grouped: GroupedScores, by_group: Sequence[float]
) -> tuple[float, Loss, Rate]:
    """The goal that these thresholds keep least, with its rate on all rows, first by how far it is
    used up.
    """
    refused_N = grouped.refused(by_group)
    rates = [(loss, loss.rate(refused_N, np.ones(len(refused_N), dtype=bool))) for loss in losses]
    used = [rate.value / loss.level for loss, rate in rates]
    at = int(np.argmax(used))
    return used[at], *rates[at]


def _needed(whole: Rate, loss: Loss, delta: float, split: LearnTestSplit) -> int | None:
    """Rows of the goal's kind that would probably certify it, if so many err among all; None if
    that is no help.
    """
    needed = rows_likely(whole.value, loss.level, delta)
    units = loss.counted(loss.among_N).units
    tested = loss.counted(split.test_N).units / max(units, 1)
    if needed is None or not tested:
        return None
    rows = int(np.ceil(needed / tested))
    # "so many would do" where as many are there contradicts itself
    return rows if rows > units else None


def lowest_rate(menu: CutGrid, at: int, keeping: Sequence[int]) -> float | None:
    """The lowest rate of one goal over mixtures of cuts that keep the others' levels; None if
    nothing keeps them.

    Variables: the share of each cut, per group; shares of a group sum to 1.
    """
    # V: all cuts of all groups, one after the other.
    errors_LV = np.concatenate(menu.errors_GLJ, axis=1)
    owner_V = np.repeat(np.arange(len(menu.threshold_GJ)), [len(t) for t in menu.threshold_GJ])
    each_group = (owner_V[None, :] == np.arange(len(menu.threshold_GJ))[:, None]).astype(np.float64)
    kept = list(keeping)
    found = linprog(
        errors_LV[at],
        A_ub=errors_LV[kept] if kept else None,
        b_ub=(menu.level_L - menu.base_L)[kept] if kept else None,
        A_eq=each_group,
        b_eq=np.ones(len(each_group)),
    )
    return float(menu.base_L[at] + found.fun) if found.success else None


def _reach_alone(menu: CutGrid, losses: Sequence[Loss]) -> tuple[Reach, ...]:
    """Per goal what is left of it while every other one is kept."""
    found = []
    for at, loss in enumerate(losses):
        lowest = lowest_rate(menu, at, [o for o in range(len(losses)) if o != at])
        found.append(Reach(goal=loss.goal, lowest=None if lowest is None else max(lowest, 0.0)))
    return tuple(found)


def _costs(losses: Sequence[Loss], reachable: Sequence[Reach]) -> str:
    parts = [
        f"{r.goal.text!r} can go no lower than {r.lowest:.4f} while the others are kept"
        for r, loss in zip(reachable, losses, strict=True)
        if r.lowest is not None and r.lowest > loss.level
    ]
    return "on these rows " + ("; ".join(parts) or "not even the other goals can be kept together")
