"""What to prefer among thresholds that keep every promise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from demur.base.arrays import Bools, Doubles, Ints
from demur.core.goals.counts import Rows
from demur.core.goals.kinds import Optimum
from demur.core.threshold import NEVER
from demur.stats.thresholds.cuts import cut_below
from demur.stats.thresholds.losses import Board, Loss


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Aim:
    """The worth of refusing each row; or F-beta of refusing what ought to be refused."""

    worth_N: Doubles  # for F-beta: 1 for rows to be refused, 0 for others
    should_N: Bools
    beta2: float | None = None  # F-beta: beta squared

    def value(self, refused_N: Bools) -> float:
        """How good it is to refuse these rows."""
        if self.beta2 is None:
            return float(self.worth_N[refused_N].sum())
        return float(
            self._f(np.array((refused_N & self.should_N).sum()), np.array(refused_N.sum()))
        )

    def best_step(self, first_N: Ints, first: int, last: int) -> int:
        """The best number of steps from `first` to `last`, when each row is refused after
        `first_N`. The fewest win.
        """
        if self.beta2 is None:
            value_S = _cumulative(first_N, last, self.worth_N)
        else:
            caught_S = _cumulative(first_N, last, self.should_N.astype(np.float64))
            value_S = self._f(caught_S, _cumulative(first_N, last, np.ones(len(first_N))))
        value_S = value_S[first:]
        return first + int(np.argmax(value_S > value_S.max() - 1e-9 * max(1.0, abs(value_S.max()))))

    def in_vain(self, refused_N: Bools) -> bool:
        """Whether nothing worthwhile is refused though there is something: a promise kept by doing
        nothing.
        """
        worthwhile_N = self.worth_N > 0
        return bool(worthwhile_N.any() and not (worthwhile_N & refused_N).any())

    def _f(self, caught: Doubles, refused: Doubles) -> Doubles:
        b2 = self.beta2 or 0.0
        f = (1 + b2) * caught / np.maximum(b2 * self.should_N.sum() + refused, 1.0)
        return np.asarray(f, dtype=np.float64)


def aim_of(goal: Optimum | None, board: Board, losses: Sequence[Loss]) -> Aim:
    """The aim of an optimum goal, or without one: catch the most, then refuse the fewest falsely.

    Where only missed refusals are promised it is the other way round: the fewest false refusals,
    then the most caught. Raises GoalError on an optimum that cannot be weighed beside promises.
    """
    aim = _aim_of(goal, board, losses)
    # no threshold earns what doubt refuses
    return replace(aim, worth_N=np.where(board.always_N, 0.0, aim.worth_N))


def _aim_of(goal: Optimum | None, board: Board, losses: Sequence[Loss]) -> Aim:
    label_N = board.rows.label_N
    should_N = label_N != 0
    if goal is None:
        first, second = (1.0, 1.0 / (len(label_N) + 1))
        if all(loss.when == "answered" for loss in losses):
            first, second = second, first
        return Aim(worth_N=np.where(should_N, first, -second), should_N=should_N)
    rows = Rows(label_N=label_N, heaviest_N=board.heaviest_N, names=board.template.taxonomy.names)
    return Aim(worth_N=goal.worth(rows), should_N=should_N, beta2=goal.beta2)


def best_within(
    board: Board, aim: Aim, low: Sequence[float], high: Sequence[float]
) -> tuple[float, ...]:
    """The best threshold of each group between its limits, on all rows; ties go to the stricter
    one.

    A linear aim separates over the groups. F-beta does at its own maximum (Dinkelbach 1967):
    iterate. Beside locked categories neither does: the best vector that moving one threshold at a
    time arrives at.
    """
    if aim.beta2 is None:
        return _best_linear(board, aim.worth_N, low, high)
    f, best = 0.0, tuple(high)
    while True:
        found = _best_linear(board, np.where(aim.should_N, 1 + aim.beta2 - f, -f), low, high)
        better = aim.value(board.refused(found))
        if better <= f + 1e-12:
            return best if board.locked and better < f else found
        f, best = better, found


def _best_linear(
    board: Board, worth_N: Doubles, low: Sequence[float], high: Sequence[float]
) -> tuple[float, ...]:
    limits = list(zip(low, high, strict=True))
    alone = [_best_cut(board.compared_with(g), worth_N, own) for g, own in enumerate(limits)]
    if not board.locked:
        return tuple(alone)
    ends = [_by_turns(board, worth_N, limits, start) for start in (alone, list(high), list(low))]
    return max(ends, key=lambda by_group: float(worth_N[board.refused(by_group)].sum()))


_MOST_TURNS = 20


def _by_turns(
    board: Board, worth_N: Doubles, limits: Sequence[tuple[float, float]], start: Sequence[float]
) -> tuple[float, ...]:
    """Thresholds that no move of a single one improves, from a start between the limits."""
    by_group = list(start)
    for _ in range(_MOST_TURNS):
        before = list(by_group)
        for g, own in enumerate(limits):
            others_N = board.refused([*by_group[:g], NEVER, *by_group[g + 1 :]])
            by_group[g] = _best_cut(
                np.where(others_N, -np.inf, board.compared_with(g)), worth_N, own
            )
        if by_group == before:
            break
    return tuple(by_group)


def _best_cut(logq_N: Doubles, worth_N: Doubles, limits: tuple[float, float]) -> float:
    """The threshold between limits that refuses the most worth among rows with these scores; the
    strictest of those.
    """
    least, most = limits
    with np.errstate(divide="ignore"):
        log_low, log_high = np.log(least), np.log(most)
    # +inf: refused at any threshold
    rows = np.flatnonzero((logq_N >= log_low) & np.isfinite(logq_N))
    rows = rows[np.argsort(-logq_N[rows], kind="stable")]
    logq_M, value_P = logq_N[rows], np.concatenate([[0.0], np.cumsum(worth_N[rows])])
    must = int((logq_M >= log_high).sum())
    cuts = np.append(
        np.flatnonzero(np.append(logq_M[1:] < logq_M[:-1], True)[: len(logq_M)]) + 1, must
    )
    cuts = np.unique(cuts[cuts >= must])
    value_J = value_P[cuts]
    cut = int(cuts[np.argmax(value_J > value_J.max() - 1e-9 * max(1.0, abs(value_J.max())))])
    if cut == must:
        return most
    return min(max(float(cut_below(logq_M[cut - 1 : cut].astype(np.float32))[0]), least), most)


def _cumulative(first_N: Ints, last: int, value_N: Doubles) -> Doubles:
    """Total value refused after 0, 1, ..., `last` steps."""
    sums = np.bincount(np.minimum(first_N, last + 1), weights=value_N, minlength=last + 2)
    return np.asarray(np.cumsum(sums)[: last + 1], dtype=np.float64)
