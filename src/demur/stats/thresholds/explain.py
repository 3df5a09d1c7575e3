"""Why a task was not certified (too few rows, or scores that do not allow it), and what would do.

1. Infeasible: where some thresholds keep all levels, their errors on these rows exceed binomial
   quantiles with probability WRONG at most. If even mixtures of thresholds cannot stay within
   these quantiles (a linear program over the cuts of all groups), then no thresholds keep the
   levels: an exact test, for any number of thresholds.
2. Else the rows that would do: demur.stats.thresholds.procedures.outlook.
3. A vacuous promise is kept by refusing nothing that ought to be refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from scipy.optimize import linprog
from scipy.stats import binom

from demur.stats.thresholds.plan import WRONG
from demur.stats.thresholds.problem import GroupedScores, LearnTestSplit, Loss
from demur.stats.thresholds.procedures.search import (
    CutGrid,
    closest_thresholds,
    cut_grid,
    first_caught,
    worst_rate,
)
from demur.stats.thresholds.procedures.task import CertifyTask, NotCertified, Tried, evidence_of
from demur.stats.thresholds.results import (
    Failure,
    Infeasible,
    Reach,
    Uncertified,
)

_SLACK = 1e-9  # of a rate, for the rounding of the linear program


def failure_of(tried: Tried) -> Failure:
    """The reason why a procedure certified nothing, in words."""
    task, found = tried.task, tried.found
    if isinstance(found, NotCertified) and not found.vacuous:
        blocked = infeasible(task.grouped, task.losses, task.fixed, found.split)
        if blocked is not None:
            return blocked
        failure = _not_yet(task, found)
    elif isinstance(found, NotCertified):
        failure = _vacuous(task.grouped, task.losses, found.delta)
    else:
        return found
    # The numbers above are those of one look at all rows.
    if found.looks_again:
        return replace(failure, reason=f"by the labels so far, {failure.reason}")
    return failure


def what_would_do(failure: Failure) -> str:
    """The hint that goes with a failure."""
    blocking = failure.blocking
    if isinstance(failure, Infeasible):
        return (
            f"{blocking.text!r} blocks: loosen it or another goal, or train a model whose "
            "scores tell more apart"
        )
    pool = ", or pool its category with another: [a + b]" if blocking.category else ""
    pool = pool or (", or ask for a wider slice" if blocking.where else "")
    pool = f"; or {failure.instead}" if failure.instead else pool
    outlook = failure.outlook
    if outlook is None or not outlook.short:
        if failure.rows_needed is None or failure.rows_needed <= failure.rows:
            return (
                f"{blocking.text!r} blocks: loosen it or another goal, or collect more labelled "
                "rows"
            )
        return (
            f"{blocking.text!r} blocks: without an error {failure.rows_needed} rows of its kind "
            f"could do, {failure.rows} are there{pool}"
        )
    wanted = " and ".join(
        f"about {w.needed} rows {w.goal.rows_words} ({w.rows} are there)" for w in outlook.short
    )
    share = f"{outlook.success:.0%} of draws"
    if outlook.bounded:
        return (
            f"{blocking.text!r} blocks: {wanted} would do in {share}, as far as these rows can "
            f"tell{pool}"
        )
    rates = " and ".join(f"{w.goal.risk} at {w.rate:.3g}" for w in outlook.wanted)
    if not outlook.refuted:
        return (
            f"{blocking.text!r} blocks: {wanted} would do in {share} if the thresholds keep "
            f"{rates}, of which these rows cannot tell{pool}"
        )
    higher = " and ".join(f"{rate:.3g}" for rate in outlook.refuted)
    return (
        f"{blocking.text!r} blocks, and these rows cannot tell whether more would do: {wanted} "
        f"would. In {share} they certify it if some thresholds keep {rates}, and in as many they "
        f"show it infeasible if none goes below {higher}{pool}"
    )


def infeasible(
    grouped: GroupedScores,
    losses: Sequence[Loss],
    fixed: Mapping[int, float],
    split: LearnTestSplit,
) -> Infeasible | None:
    """Infeasible if these rows refute that any thresholds keep all levels; None if they do not.

    At thresholds that keep all levels the errors exceed their binomial quantiles on some goal with
    probability WRONG at most, however many thresholds there are, because those are not chosen by
    the rows. So if no thresholds stay within the quantiles, none keeps the levels.
    """
    # Beside locked categories the cuts' errors are no sums, and under another mix their weighted
    # sums are not binomial: nothing is called infeasible.
    if grouped.locked or any(loss.traffic is not None for loss in losses):
        return None
    # Thresholds that are set otherwise are learnt on some of the rows: the others are looked at.
    part_N = split.test_N if fixed else np.ones(len(grouped.logq_N), dtype=bool)
    drawn = [loss.one_per_unit(part_N) for loss in losses]
    if not all(loss.among_N.any() for loss in drawn):
        return None
    everyone = LearnTestSplit(learn_N=part_N, test_N=part_N)
    menu = cut_grid(grouped, drawn, np.zeros(len(part_N)), everyone, fixed)
    of_L = np.array([loss.of(part_N) for loss in drawn], dtype=np.float64)
    most_L = binom.ppf(1.0 - WRONG / len(drawn), of_L, menu.level_L)
    within = replace(_between_cuts(menu, drawn, fixed), level_L=most_L / of_L)
    # Hard goals first, then by priority: the first not met beside earlier ones blocks.
    order = sorted(range(len(losses)), key=lambda at: losses[at].goal.soft or 0)
    for place, at in enumerate(order):
        lowest = lowest_rate(within, at, order[:place])
        if lowest is None or lowest > within.level_L[at] + _SLACK:
            lone = _reach_alone(menu, losses)
            return Infeasible(reason=_costs(losses, lone), blocking=losses[at].goal, reachable=lone)
    return None


def _between_cuts(menu: CutGrid, losses: Sequence[Loss], fixed: Mapping[int, float]) -> CutGrid:
    """The grid with the least errors that any threshold between two neighbouring cuts can have.

    As few refusals as the stricter of the two, as few answers as the more lenient one; beyond the
    last cut every row is refused.
    """
    answers_L = np.array([loss.when == "answered" for loss in losses])
    found = []
    for g, errors_LJ in enumerate(menu.errors_GLJ):
        if g in fixed:
            found.append(errors_LJ)
            continue
        next_LJ = np.concatenate([errors_LJ[:, 1:], menu.whole_GL[g][:, None]], axis=1)
        found.append(np.where(answers_L[:, None], next_LJ, errors_LJ))
    return replace(menu, errors_GLJ=tuple(found))


def _not_yet(task: CertifyTask, found: NotCertified) -> Uncertified:
    """Uncertified, with the errors at the thresholds that come closest to all levels."""
    grouped, losses, delta = task.grouped, task.losses, found.delta
    refused_N = grouped.refused(closest_thresholds(grouped, losses, task.on_all_rows, task.fixed))
    evidence = evidence_of(losses, refused_N, found.split.test_N, delta)
    worst = max(range(len(losses)), key=lambda at: evidence[at].p_value)
    seen, loss = evidence[worst], losses[worst]
    words = (
        f"{loss.goal.text!r}: {seen.rate.hits} of {seen.rate.of} tested rows err at the "
        "thresholds that come closest"
    )
    if seen.p_value <= delta:
        # they were found with all rows in view, and the procedure must not choose so
        words += (
            f", which would do (at delta {delta:.3g} the rate may be {seen.upper:.4f}); the "
            "thresholds that are tested in an order learnt on other rows stop short of them"
        )
    else:
        words += f"; at delta {delta:.3g} the rate may be {seen.upper:.4f}, above {loss.level:g}"
    return Uncertified(
        reason=words,
        blocking=loss.goal,
        rows=loss.counted(task.everyone).units,
        rows_needed=None,
        evidence=evidence,
    )


def _vacuous(grouped: GroupedScores, losses: Sequence[Loss], delta: float) -> Uncertified:
    """Uncertified, because the certified thresholds refuse no row that ought to be refused.

    Beside that stands what the thresholds that catch the first such row at the least cost would do
    on all rows.
    """
    everyone_N = np.ones(len(grouped.logq_N), dtype=bool)
    cheapest = min(
        (worst_rate(losses, grouped, first) for first in first_caught(grouped)),
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
    return Uncertified(
        reason=words,
        blocking=loss.goal,
        rows=loss.counted(everyone_N).units,
        rows_needed=None,
        evidence=(),
    )


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
    return (
        "on these rows "
        + ("; ".join(parts) or "not even the other goals can be kept together")
        + f". That no thresholds keep them is said wrongly in at most {WRONG:.0%} of draws: more "
        "rows of the same kind will hardly help"
    )
