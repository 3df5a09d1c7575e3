"""Why a request was not certified: too few rows, or scores that do not allow it; and what would do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.optimize import linprog

from demur.core.guarantee import Failure, Infeasible, Reach, Uncertified
from demur.stats.board import Board, Loss, evidence_of
from demur.stats.learn import Menu, Split, candidates, menu_of
from demur.stats.plan import rows_likely

_SLACK = 1e-9  # of a rate, for the rounding of the linear program


def explain(board: Board, losses: Sequence[Loss], delta: float, split: Split, fixed: Mapping[int, float]) -> Failure:
    """Infeasible if no thresholds meet all levels on all rows, else Uncertified with the rows that would do.

    A linear program over mixtures of cuts bounds from below what any threshold vector can reach (of at most 200 cuts
    per category): what it cannot reach, none of them can.
    """
    everyone_N = np.ones(len(board.logq_N), dtype=bool)
    worth_N = (board.rows.label_N != 0).astype(np.float64)
    menu = menu_of(board, losses, worth_N, Split(learn_N=everyone_N, test_N=everyone_N), fixed)
    lone = _reach_alone(menu, losses)
    # Beside locked categories the menu counts rows twice: its bounds are none, and nothing is called infeasible.
    order = () if board.locked else sorted(range(len(losses)), key=lambda at: losses[at].goal.soft or 0)
    for at in order:
        before = [o for o in range(len(losses)) if (losses[o].goal.soft or 0, o) < (losses[at].goal.soft or 0, at)]
        lowest = lowest_rate(menu, at, before)
        if lowest is None or lowest > losses[at].level + _SLACK:
            return Infeasible(reason=_costs(losses, lone), blocking=losses[at].goal.text, reachable=lone)
    refused_N = board.refused(candidates(menu, 2)[0])
    evidence = evidence_of(losses, refused_N, split.test_N, delta)
    worst = max(range(len(losses)), key=lambda at: evidence[at].p_value)
    whole, loss = losses[worst].rate(refused_N, everyone_N), losses[worst]
    tested = loss.of(split.test_N) / whole.of
    needed = rows_likely(whole.value, loss.level, delta)
    return Uncertified(
        reason=f"{loss.goal.text!r}: {evidence[worst].rate.hits} of {evidence[worst].rate.of} rows err at the "
        f"thresholds that come closest; the rate may be {evidence[worst].upper:.4f}",
        blocking=loss.goal.text,
        rows=whole.of,
        rows_needed=int(np.ceil(needed / max(tested, 1e-9))) if needed is not None else None,
        evidence=evidence,
    )


def lowest_rate(menu: Menu, at: int, keeping: Sequence[int]) -> float | None:
    """The lowest rate of one goal over mixtures of cuts that keep the others' levels; None if nothing keeps them.

    Variables: the share of each cut, per group; shares of a group sum to 1.
    """
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


def _reach_alone(menu: Menu, losses: Sequence[Loss]) -> tuple[Reach, ...]:
    """Per goal what is left of it while every other one is kept."""
    found = []
    for at, loss in enumerate(losses):
        lowest = lowest_rate(menu, at, [o for o in range(len(losses)) if o != at])
        found.append(Reach(goal=loss.goal.text, lowest=None if lowest is None else max(lowest, 0.0)))
    return tuple(found)


def _costs(losses: Sequence[Loss], reachable: Sequence[Reach]) -> str:
    parts = [
        f"{r.goal!r} can go no lower than {r.lowest:.4f} while the others are kept"
        for r, loss in zip(reachable, losses, strict=True)
        if r.lowest is not None and r.lowest > loss.level
    ]
    return "on these rows " + ("; ".join(parts) or "not even the other goals can be kept together")
