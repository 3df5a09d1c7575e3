"""What a procedure is asked to certify, and how it answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from demur.base.arrays import Bools
from demur.stats.thresholds.explain import explain, in_vain
from demur.stats.thresholds.losses import Board, Loss, evidence_of
from demur.stats.thresholds.results import Certified, Failure, Uncertified
from demur.stats.thresholds.search import (
    Split,
)
from demur.stats.thresholds.worth import Aim, best_within

Shares = Mapping[str, float]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Request:
    """What to certify, on which rows, how surely."""

    board: Board
    losses: tuple[Loss, ...]  # all promised together
    aim: Aim  # what to prefer among certified vectors
    delta: float
    fixed: Mapping[int, float]  # thresholds of groups that are set otherwise
    seed: int = 0
    learn_share: float = 0.4  # of the rows, to learn an order on; path and vectors only
    # whether a failure should say whether it is infeasible, and what would do
    explained: bool = True
    # of level and delta per category, sum 1; budgets and graphical only
    shares: Shares | None = None

    @property
    def everyone(self) -> Bools:
        """All rows, as a part."""
        return np.ones(len(self.board.logq_N), dtype=bool)


def within(
    request: Request, low: Sequence[float], high: Sequence[float], method: str
) -> Certified | Failure:
    """The best vector between limits that are certified as a whole."""
    by_group = best_within(request.board, request.aim, low, high)
    refused_N = request.board.refused(by_group)
    if request.aim.in_vain(refused_N):
        everyone = Split(learn_N=request.everyone, test_N=request.everyone)
        return in_vain(request.board, request.losses, request.delta, everyone)
    return certified(request, by_group, refused_N, request.everyone, method)


def certified(
    request: Request, by_group: Sequence[float], refused_N: Bools, part_N: Bools, method: str
) -> Certified:
    return Certified(
        thresholds=request.board.thresholds(by_group),
        evidence=evidence_of(request.losses, refused_N, part_N, request.delta),
        method=method,
    )


def explained(request: Request, split: Split, delta: float) -> Failure:
    """Why nothing is certified. delta: what each side was tested at."""
    if not request.explained:
        first = request.losses[0]
        reason = "not certified, and not asked why"
        of = first.of(request.everyone)
        return Uncertified(
            reason=reason, blocking=first.goal, rows=of, rows_needed=None, evidence=()
        )
    return explain(request.board, request.losses, delta, split, request.fixed)
