"""Why goals that are tested vector by vector, or with a band below each threshold, were not
certified, and whether any band could do.

The test of "no thresholds keep all levels" is that of demur.stats.thresholds.explain, with two
thresholds a group: mixtures of cuts for refusals, mixtures of cuts for what is not answered, and
the second nowhere stricter than the first. Rates are linear in both.

Shapes: L goals, G groups, J cuts of a group, V cuts of all groups one after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linprog
from scipy.stats import binom

from demur.base.arrays import Doubles
from demur.stats.thresholds.plan import WRONG
from demur.stats.thresholds.problem import GroupedScores, LearnTestSplit, Loss
from demur.stats.thresholds.procedures.search import cut_grid
from demur.stats.thresholds.procedures.task import CertifyTask, NotCertified, evidence_of
from demur.stats.thresholds.results import Failure, Infeasible, Reach, Uncertified

_SLACK = 1e-9  # of a rate, for the rounding of the linear program


def band_failure(task: CertifyTask, found: NotCertified) -> Failure:
    """The reason why no vector, or pair of vectors, was certified, in words."""
    if not found.vacuous and (blocked := _infeasible(task)) is not None:
        return blocked
    return _not_yet(task, found)


def _not_yet(task: CertifyTask, found: NotCertified) -> Uncertified:
    """Uncertified, with the errors of the vectors that looked surest by other rows."""
    assert found.surest is not None  # this is a band's failure
    task = task.divided(found.split)
    refused_N, held_N = (task.grouped.refused(by_group) for by_group in found.surest)
    held_N |= refused_N
    seen = evidence_of(task.losses, refused_N, found.split.test_N, found.delta, held_N)
    at = max(range(len(seen)), key=lambda n: seen[n].p_value)
    loss, one = task.losses[at], seen[at]
    pairs = bool(task.grouped.deferring)
    which = f"{'pair of thresholds that looks' if pairs else 'thresholds that look'} surest"
    if found.vacuous:
        reason = (
            f"the thresholds that {loss.goal.text!r} certifies hold back none of the rows to be "
            "refused: a promise kept by doing nothing"
        )
    else:
        reason = (
            f"{loss.goal.text!r}: {one.rate.hits} of {one.rate.of} tested rows err at the "
            f"{which}; at delta {found.delta:.3g} the rate may be "
            f"{one.upper:.4f}, above {loss.level:g}"
        )
    return Uncertified(
        reason=reason,
        blocking=loss.goal,
        rows=loss.units,
        rows_needed=None,
        evidence=seen,
    )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Program:
    """The linear program over shares of cuts: the first V for refusals, then V for what is held."""

    rate_LV: Doubles  # of each goal, less its base: (L, 2 V)
    base_L: Doubles
    level_L: Doubles  # that the errors on these rows keep where the goal's level holds
    each_group: Doubles  # shares of a group sum to 1: (2 G, 2 V)
    lenient: Doubles  # at most 0 where held cuts are as lenient as refusing ones

    def lowest(self, at: int, keeping: Sequence[int]) -> float | None:
        """The lowest rate of one goal while others are kept; None if nothing keeps them."""
        kept = list(keeping)
        found = linprog(
            self.rate_LV[at],
            A_ub=np.concatenate([self.rate_LV[kept], self.lenient]),
            b_ub=np.concatenate([(self.level_L - self.base_L)[kept], np.zeros(len(self.lenient))]),
            A_eq=self.each_group,
            b_eq=np.ones(len(self.each_group)),
        )
        return max(float(self.base_L[at] + found.fun), 0.0) if found.success else None


def _infeasible(task: CertifyTask) -> Infeasible | None:
    """Infeasible if these rows refute that any pair of vectors keeps all levels; None if not."""
    if task.grouped.locked or not all(loss.goal.monotone for loss in task.losses):
        return None
    drawn = [loss.one_per_unit(task.everyone) for loss in task.losses]
    program = _program(task.grouped, drawn, task)
    order = sorted(range(len(drawn)), key=lambda at: task.losses[at].goal.soft or 0)
    for place, at in enumerate(order):
        lowest = program.lowest(at, order[:place])
        if lowest is None or lowest > program.level_L[at] + _SLACK:
            return _blocked(task, at)
    return None


def _blocked(task: CertifyTask, at: int) -> Infeasible:
    """The trade-off in reach on these rows, by the goals' own levels."""
    levels = np.array([loss.level for loss in task.losses])
    exact = _program(task.grouped, list(task.losses), task, levels)
    count = len(task.losses)
    reachable = tuple(
        Reach(
            goal=loss.goal,
            lowest=exact.lowest(n, [other for other in range(count) if other != n]),
        )
        for n, loss in enumerate(task.losses)
    )
    parts = [
        f"{r.goal.text!r} can go no lower than {r.lowest:.4f} while the others are kept"
        for r in reachable
        if r.lowest is not None and r.lowest > r.goal.level
    ]
    reason = (
        "on these rows "
        + ("; ".join(parts) or "not even the other goals can be kept together")
        + f". That no thresholds keep them is said wrongly in at most {WRONG:.0%} of draws: more "
        "rows of the same kind will hardly help"
    )
    return Infeasible(reason=reason, blocking=task.losses[at].goal, reachable=reachable)


def _program(
    grouped: GroupedScores,
    losses: Sequence[Loss],
    task: CertifyTask,
    level_L: Doubles | None = None,
) -> _Program:
    """The program on all rows. level_L: levels to keep; None: quantiles of the errors at them."""
    everyone = LearnTestSplit(learn_N=task.everyone, test_N=task.everyone)
    menu = cut_grid(grouped, losses, np.zeros(len(task.everyone)), everyone, task.fixed)
    of_L = np.array([loss.of(task.everyone) for loss in losses], dtype=np.float64)
    if level_L is None:
        level_L = binom.ppf(1.0 - WRONG / len(losses), of_L, menu.level_L) / of_L
    own, beyond = [], []  # per group: rates (L, J) at each cut, and at the next more lenient one
    for errors_LJ, whole_L in zip(menu.errors_GLJ, menu.whole_GL, strict=True):
        own.append(errors_LJ)
        beyond.append(np.concatenate([errors_LJ[:, 1:], whole_L[:, None]], axis=1))
    own_LV, beyond_LV = np.concatenate(own, axis=1), np.concatenate(beyond, axis=1)
    # Between two cuts a goal errs no less than by the better of both, for either threshold. The
    # grid gives a rate of answers a negative sign, and one of deferrals too: there it is a base
    # less what is refused.
    none_LV = np.zeros_like(own_LV)
    whens = np.array([loss.when for loss in losses])
    refusing_LV = np.where((whens == "refused")[:, None], own_LV, none_LV)
    refusing_LV = np.where((whens == "deferred")[:, None], beyond_LV, refusing_LV)
    holding_LV = np.where((whens == "answered")[:, None], beyond_LV, none_LV)
    holding_LV = np.where((whens == "deferred")[:, None], -own_LV, holding_LV)
    cuts = [len(t) for t in menu.threshold_GJ]
    return _Program(
        rate_LV=np.concatenate([refusing_LV, holding_LV], axis=1),
        base_L=np.where(whens == "deferred", 0.0, menu.base_L),
        level_L=level_L,
        each_group=_each_group(cuts),
        lenient=_lenient(grouped, cuts),
    )


def _each_group(cuts: Sequence[int]) -> Doubles:
    """A row per group and threshold, 1 at its cuts: (2 G, 2 V)."""
    owner_V = np.repeat(np.arange(2 * len(cuts)), [*cuts, *cuts])
    is_own = owner_V[None, :] == np.arange(2 * len(cuts))[:, None]
    return np.asarray(is_own, dtype=np.float64)


def _lenient(grouped: GroupedScores, cuts: Sequence[int]) -> Doubles:
    """Rows that are at most 0 where, in every group, so much of the held share lies at strict cuts
    as of the refusing share at most; a group that does not defer holds what it refuses.
    """
    total, found, start = sum(cuts), [], 0
    for g, size in enumerate(cuts):
        # A row per cut: the share of the cuts up to it, held ones less refusing ones.
        block = np.zeros((size, 2 * total))
        upto = np.tri(size)
        block[:, start : start + size] = -upto
        block[:, total + start : total + start + size] = upto
        found.append(block)
        if g not in grouped.deferring:
            found.append(-block)
        start += size
    return np.concatenate(found)
