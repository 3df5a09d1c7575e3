"""Where to look for thresholds: a path and single vectors, learnt on rows that the promise is not
tested on.

Whatever is learnt here, the test on the other rows is valid; only how much is caught depends on it.
Shapes: G groups, S steps of a path, J cuts of a group.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import isotonic_regression

from demur.base.arrays import Bools, Doubles, Ints
from demur.core.rates import Rate
from demur.core.threshold import ALWAYS, NEVER
from demur.stats.sample import AskedRequests, asked_requests
from demur.stats.thresholds.cuts import cut_below, cut_between
from demur.stats.thresholds.problem import GroupedScores, LearnTestSplit, Loss
from demur.stats.units import renumbered

# A stream of its own: rows that the caller drew with the same seed must not decide which part they
# fall into.
_OF_SPLITS = 0x5B117
FEW = 5  # rows to be refused that thresholds should refuse at least
MOST_CUTS = 200  # per group, where every combination is looked at
# rows of a group that say something; the share of pairs below which it is left out
FEW_ROWS, LEFT_OUT = 5, 0.1


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ThresholdPath:
    """Threshold vectors from "never refuse" to lenient: each step lowers one group's threshold."""

    group_S: Ints
    threshold_S: Doubles
    fixed: Mapping[int, float]  # thresholds of groups that do not move

    def at(self, step: int, groups: int) -> tuple[float, ...]:
        """The threshold of each group after the first `step` steps."""
        found = [self.fixed.get(g, NEVER) for g in range(groups)]
        for g in set(range(groups)) - set(self.fixed):
            own = np.flatnonzero(self.group_S[:step] == g)
            if len(own):
                found[g] = float(self.threshold_S[own[-1]])
        return tuple(found)

    def first_step(self, grouped: GroupedScores) -> Ints:
        """Per row the number of steps after which it is refused; one more than there are if it
        never is.
        """
        step_N = np.full(len(grouped.logq_N), len(self.group_S) + 1, dtype=np.int64)
        for g in range(len(grouped.groups)):
            logq_N = grouped.compared_with(g)
            rows = np.flatnonzero(logq_N > -np.inf)
            if g in self.fixed:
                step_N[rows[logq_N[rows] >= _log(self.fixed[g])]] = 0
                continue
            # Thresholds of one group fall along the path: the first that a score meets is found by
            # one binary search, and `after` maps it to its number of steps.
            own = np.flatnonzero(self.group_S == g)
            after = np.append(own + 1, len(self.group_S) + 1)
            found = after[np.searchsorted(-_log(self.threshold_S[own]), -logq_N[rows], side="left")]
            # the first of the thresholds that reach it
            step_N[rows] = np.minimum(step_N[rows], found)
        step_N[grouped.always_N] = 0
        return step_N


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CutGrid:
    """A few cuts of every group, strict to lenient, and what each does: the arithmetic of whole
    vectors.
    """

    threshold_GJ: tuple[Doubles, ...]
    # per group, goal and cut: the goal's rate contributed by the group
    errors_GLJ: tuple[Doubles, ...]
    base_L: Doubles  # rates that no threshold changes
    level_L: Doubles
    spread_L: Doubles  # standard error of each rate on the rows it will be tested on, at its level
    worth_GJ: tuple[Doubles, ...]  # what refusing down to each cut is worth
    whole_GL: tuple[Doubles, ...]  # as errors_GLJ, with every row of the group refused


def split_rows(
    grouped: GroupedScores, learn_share: float, seed: int, losses: Sequence[Loss] = ()
) -> LearnTestSplit:
    """A seeded split of the rows. Groups of rows never cross it; the requests that one row stands
    for may (demur.stats.sample).

    losses: rows of groups in which none of these goals has a row are all learnt from. A test of the
    goals never looks at them, so nothing is used twice: with promises about false refusals only,
    these are the rows to be refused.
    """
    unit_N = np.arange(len(grouped.logq_N))
    if grouped.rows.group_N is not None:
        unit_N = renumbered(grouped.rows.group_N)
    # U: units that are drawn together, a group of rows or a row alone.
    rng = np.random.default_rng([seed, _OF_SPLITS])
    learn_U = rng.random(unit_N.max() + 1) < learn_share
    spoken_U = np.zeros(len(learn_U), dtype=bool)
    if losses:
        for loss in losses:
            spoken_U[unit_N[loss.among_N]] = True
        learn_U |= ~spoken_U
    learn_N, count_N = learn_U[unit_N], grouped.rows.count_N
    if count_N is None or (count_N == 1).all() or not learn_share:
        return LearnTestSplit(learn_N=learn_N, test_N=~learn_N)
    asked_N = asked_requests(count_N, learn_N, 1.0 - learn_share, rng.random(len(count_N)))
    if losses:
        asked_N[~spoken_U[unit_N]] = 0
    return LearnTestSplit(
        learn_N=learn_N & (asked_N < count_N),
        test_N=asked_N > 0,
        asked=AskedRequests(count_N=asked_N, taught_N=learn_N),
    )


def cumulative(first_N: Ints, steps: int, weight_N: Doubles) -> Doubles:
    """The summed weight of the rows refused after 0, 1, ..., `steps` steps."""
    sums = np.bincount(first_N, weights=weight_N, minlength=steps + 2)
    return np.asarray(np.cumsum(sums)[: steps + 1], dtype=np.float64)


def even_path(grouped: GroupedScores, learn_N: Bools, fixed: Mapping[int, float]) -> ThresholdPath:
    """The vectors that refuse the same share of each group's rows to be refused, by these rows,
    strict to lenient.

    Where labels are few it needs none of those that the test is about: no row to be answered says
    what is cheap.
    """
    # merged by the share of rows at or above each score, one step at a time keeps all groups level
    to_refuse_N = learn_N & (grouped.rows.label_N != 0)
    return _merged_path(
        grouped, to_refuse_N, fixed, lambda logq_M, end_J: (end_J + 1) / len(logq_M)
    )


def one_threshold_path(
    grouped: GroupedScores, learn_N: Bools, fixed: Mapping[int, float]
) -> ThresholdPath:
    """The vectors with one threshold for all groups, at the scores of these rows, strict to
    lenient. It learns nothing from their labels, so few of them do not mislead it.
    """
    return _merged_path(grouped, learn_N, fixed, lambda logq_M, end_J: -logq_M[end_J])


def _merged_path(
    grouped: GroupedScores,
    own_N: Bools,
    fixed: Mapping[int, float],
    place_J: Callable[[Doubles, Ints], Doubles],
) -> ThresholdPath:
    """The path whose steps are the distinct scores of these rows in each group, merged by the place
    of each. place_J: of a group's falling scores, where the last of each distinct one stands.
    """
    group, threshold, place = [], [], []
    for g in (g for g in range(len(grouped.groups)) if g not in fixed):
        logq_N = grouped.compared_with(g)
        own = own_N & (logq_N >= _LEAST) & ~grouped.always_N
        logq_M = -np.sort(-logq_N[own])
        if not len(logq_M):
            continue
        ends = np.flatnonzero(np.append(logq_M[1:] < logq_M[:-1], True))
        threshold.append(_cuts_after(logq_M, ends))
        place.append(place_J(logq_M, ends))
        group.append(np.full(len(ends), g, dtype=np.int64))
    order = np.argsort(np.concatenate([np.empty(0), *place]), kind="stable")
    group_S = np.concatenate([np.empty(0, dtype=np.int64), *group])[order]
    return ThresholdPath(
        group_S=group_S, threshold_S=np.concatenate([np.empty(0), *threshold])[order], fixed=fixed
    )


def goal_weights(losses: Sequence[Loss], learn_N: Bools) -> tuple[Doubles, Doubles]:
    """What refusing each learning row costs the goals that refusals break, and what answering it
    costs those that answers break. A goal close to its level makes its rows dear.
    """
    cost_N, needed_N = np.zeros(len(learn_N)), np.zeros(len(learn_N))
    for loss in losses:
        weight_N = cost_N if loss.when == "refused" else needed_N
        own_N = np.where(loss.could_err_N & learn_N, loss.weight_N, 0.0)
        weight_N += own_N / (loss.level * max(loss.of(learn_N), 1))
    return cost_N, needed_N


def beside(goals_N: Doubles, objective_N: Doubles, weight: float) -> Doubles:
    """The weights of the goals with so much of the objective beside them; all of it without any."""
    if not goals_N.any():
        return objective_N
    scale = weight * goals_N.sum() / max(objective_N.sum(), 1e-12)
    return np.asarray(goals_N + scale * objective_N, dtype=np.float64)


def lenient_path(
    grouped: GroupedScores, cost_N: Doubles, worth_N: Doubles, fixed: Mapping[int, float]
) -> ThresholdPath:
    """The vectors that gain the most worth per cost, for every price of cost, strict to lenient.

    cost_N: what refusing a row costs, 0 for rows that do not count. worth_N: what it gains. Per
    group the cuts' worth over cost is made concave (its least concave majorant is an antitonic
    regression of the slopes); merged by slope, the groups' pieces are the solutions of max worth -
    price * cost for a falling price, refined to single rows. O(n log n).
    """
    moving = [g for g in range(len(grouped.groups)) if g not in fixed]
    parts = [_slopes(grouped, g, cost_N, worth_N) for g in moving]
    group_S = np.repeat(np.array(moving, dtype=np.int64), [len(slope) for slope, _ in parts])
    slope_S = np.concatenate([np.empty(0), *(slope for slope, _ in parts)])
    threshold_S = np.concatenate([np.empty(0), *(threshold for _, threshold in parts)])
    # stable: within a group the order stays strict to lenient
    order = np.argsort(-slope_S, kind="stable")
    # Last, every row of each group: scores below all learnt ones may come.
    return ThresholdPath(
        group_S=np.concatenate([group_S[order], np.array(moving, dtype=np.int64)]),
        threshold_S=np.concatenate([threshold_S[order], np.full(len(moving), ALWAYS)]),
        fixed=fixed,
    )


def uneven(grouped: GroupedScores, learn_N: Bools) -> bool:
    """Whether one threshold for all groups would leave one out, by these rows to be refused alone.

    Of some two groups with FEW_ROWS rows or more, one scores above the other in fewer than LEFT_OUT
    of all pairs.
    """
    own_N = learn_N & (grouped.rows.label_N != 0) & ~grouped.always_N
    groups = [
        np.sort(grouped.logq_N[own_N & (grouped.group_N == g)]) for g in range(len(grouped.groups))
    ]
    known = [logq_M for logq_M in groups if len(logq_M) >= FEW_ROWS]
    # The probability that a row of one group scores above a row of another, for each pair of
    # groups: the Mann-Whitney statistic, ties counted for the former.
    above = [
        np.searchsorted(low, high, side="left").mean() / len(low) for high in known for low in known
    ]
    return min(above, default=1.0) < LEFT_OUT


def _slopes(
    grouped: GroupedScores, g: int, cost_N: Doubles, worth_N: Doubles
) -> tuple[Doubles, Doubles]:
    """Per piece of a group's rows, strict to lenient: its (concave) worth per cost, and the
    threshold that ends it.
    """
    logq_N = grouped.compared_with(g)
    rows = np.flatnonzero(((cost_N > 0) | (worth_N != 0)) & (logq_N >= _LEAST) & ~grouped.always_N)
    rows = rows[np.argsort(-logq_N[rows], kind="stable")]
    if not len(rows):
        return np.empty(0), np.empty(0)
    logq_M = logq_N[rows]
    ends = np.flatnonzero(np.append(logq_M[1:] < logq_M[:-1], True))
    cost_J = np.diff(np.cumsum(cost_N[rows])[ends], prepend=0.0)
    worth_J = np.diff(np.cumsum(worth_N[rows])[ends], prepend=0.0)
    # A piece: the free cuts after a costly one belong to it. Free cuts before the first costly one
    # have no price.
    piece_J = np.cumsum(cost_J > 0)
    last = np.flatnonzero(np.append(np.diff(piece_J), 1))
    cost_P, worth_P = (np.bincount(piece_J, weights=value) for value in (cost_J, worth_J))
    threshold = _cuts_after(logq_M, ends[last])
    present = np.unique(piece_J)
    cost_P, worth_P = cost_P[present], worth_P[present]
    free = int(cost_P[0] == 0)
    slope = np.full(len(cost_P), np.inf)
    if len(cost_P) > free:
        ratio = worth_P[free:] / cost_P[free:]
        slope[free:] = isotonic_regression(ratio, weights=cost_P[free:], increasing=False).x
    return slope, threshold


def cut_grid(
    grouped: GroupedScores,
    losses: Sequence[Loss],
    worth_N: Doubles,
    split: LearnTestSplit,
    fixed: Mapping[int, float],
) -> CutGrid:
    """At most MOST_CUTS cuts per group, in even steps of the learning rows, with their rates on
    these rows.
    """
    learn_N = split.learn_N
    of_L = np.array([max(loss.of(learn_N), 1) for loss in losses], dtype=np.float64)
    # A row that may err counts as the requests that it stands for, as the denominators do.
    could_err = [np.where(loss.could_err_N, loss.weight_N, 0.0) for loss in losses]
    threshold_GJ, errors_GLJ, worth_GJ, whole_GL = [], [], [], []
    for g in range(len(grouped.groups)):
        logq_N = grouped.compared_with(g)
        rows = np.flatnonzero((logq_N > -np.inf) & learn_N & ~grouped.always_N)
        rows = rows[np.argsort(-logq_N[rows], kind="stable")]
        threshold_J = np.array([fixed[g]]) if g in fixed else _few_cuts(logq_N[rows])
        refused_J = np.searchsorted(-logq_N[rows], -_log(threshold_J), side="right")
        errors = [_prefix(weight_N[rows])[refused_J] for weight_N in could_err]
        # A refusal adds to a rate of refusals and takes from a rate of answers, whose base is the
        # rate with nothing refused.
        sign_L1 = np.array([[1.0 if loss.when == "refused" else -1.0] for loss in losses])
        threshold_GJ.append(threshold_J)
        errors_GLJ.append(sign_L1 * np.array(errors) / of_L[:, None])
        whole_GL.append(sign_L1[:, 0] * [weight_N[rows].sum() for weight_N in could_err] / of_L)
        worth_GJ.append(_prefix(worth_N[rows])[refused_J])
    base = [
        weight_N[
            learn_N & (~grouped.always_N if loss.when == "answered" else grouped.always_N)
        ].sum()
        for weight_N, loss in zip(could_err, losses, strict=True)
    ]
    level_L = np.array([loss.level for loss in losses])
    tested_L = np.array([max(loss.of(split.test_N), 1) for loss in losses])
    return CutGrid(
        threshold_GJ=tuple(threshold_GJ),
        errors_GLJ=tuple(errors_GLJ),
        base_L=np.array(base) / of_L,
        level_L=level_L,
        spread_L=np.sqrt(level_L * (1 - level_L) / tested_L),
        worth_GJ=tuple(worth_GJ),
        whole_GL=tuple(whole_GL),
    )


def candidates(menu: CutGrid, count: int = 16) -> list[tuple[float, ...]]:
    """Vectors to test in this order: the safest first, then the most worthwhile at ever smaller
    margins.

    The margin of a vector: the smallest distance of a rate below its level, in standard errors.
    Found by moving one threshold at a time over all its cuts, from several starts.
    """
    starts = [
        np.array([round(f * (len(t) - 1)) for t in menu.threshold_GJ]) for f in np.linspace(0, 1, 9)
    ]
    safest = max((_climb(menu, s, None) for s in starts), key=lambda cut_G: _margin(menu, cut_G))
    found, cut_G = [safest], safest
    for least in np.linspace(_margin(menu, safest), 0.0, count)[1:]:
        cut_G = _climb(menu, cut_G, least)
        if not any((cut_G == f).all() for f in found):
            found.append(cut_G)
    return [tuple(float(t[j]) for t, j in zip(menu.threshold_GJ, f, strict=True)) for f in found]


def closest_thresholds(
    grouped: GroupedScores,
    losses: Sequence[Loss],
    split: LearnTestSplit,
    fixed: Mapping[int, float],
) -> tuple[float, ...]:
    """The thresholds that come closest to all levels on the learning rows, and that refuse a few
    rows to be refused.
    """
    whens = {loss.when for loss in losses}
    if whens == {"refused"}:
        first = first_caught(grouped, FEW)
        if first:
            return min(first, key=lambda t: worst_rate(losses, grouped, t)[0])
    if whens == {"answered"} and not fixed:
        return (ALWAYS,) * len(grouped.groups)
    worth_N = (grouped.rows.label_N != 0) & split.learn_N
    menu = cut_grid(grouped, losses, worth_N.astype(np.float64), split, fixed)
    return candidates(menu, 2)[0]


def first_caught(grouped: GroupedScores, few: int = 1) -> list[tuple[float, ...]]:
    """Per group the vector that refuses its likeliest rows to be refused, so few, and nothing in
    other groups.
    """
    found = []
    for g in range(len(grouped.groups)):
        logq_N = grouped.compared_with(g)
        own_M = -np.sort(-logq_N[(grouped.rows.label_N != 0) & np.isfinite(logq_N)])
        if len(own_M):
            last = own_M[min(few, len(own_M)) - 1 :][:1]
            cut = float(cut_below(last.astype(np.float32))[0])
            found.append(tuple(cut if at == g else NEVER for at in range(len(grouped.groups))))
    return found


def worst_rate(
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


def _climb(menu: CutGrid, cut_G: Ints, least: float | None) -> Ints:
    """Move one threshold at a time while it helps: to a larger margin, or to more worth at a margin
    >= least.
    """
    cut_G, rate_L = cut_G.copy(), _rates(menu, cut_G)
    for _ in range(20):
        before = cut_G.copy()
        for g, errors_LJ in enumerate(menu.errors_GLJ):
            rates_LJ = (rate_L - errors_LJ[:, cut_G[g]])[:, None] + errors_LJ
            margin_LJ = (menu.level_L[:, None] - rates_LJ) / menu.spread_L[:, None]
            # a smooth minimum: one goal may have to give way before another gains
            if least is None:
                value_J = -np.logaddexp.reduce(-margin_LJ, axis=0)
            else:
                value_J = np.where(margin_LJ.min(axis=0) >= least - 1e-9, menu.worth_GJ[g], -np.inf)
            # Only a strict gain moves a threshold, so that the climb ends.
            best = int(np.argmax(value_J))
            if value_J[best] > value_J[cut_G[g]]:
                cut_G[g], rate_L = best, rates_LJ[:, best]
        if (cut_G == before).all():
            break
    return cut_G


def _rates(menu: CutGrid, cut_G: Ints) -> Doubles:
    return menu.base_L + sum(errors[:, j] for errors, j in zip(menu.errors_GLJ, cut_G, strict=True))


def _margin(menu: CutGrid, cut_G: Ints) -> float:
    return float(((menu.level_L - _rates(menu, cut_G)) / menu.spread_L).min())


_LEAST = -700.0  # below, cuts are not told apart: see demur.stats.thresholds.cuts


def _few_cuts(logq_M: Doubles) -> Doubles:
    """NEVER, then thresholds at even steps of these descending scores."""
    logq_M = logq_M[logq_M >= _LEAST]
    if not len(logq_M):
        return np.array([NEVER])
    values = np.unique(logq_M[np.linspace(0, len(logq_M) - 1, MOST_CUTS).astype(int)])[::-1]
    return np.concatenate(
        [[NEVER], _cuts_after(logq_M, np.searchsorted(-logq_M, -values, side="right") - 1)]
    )


def _cuts_after(logq_M: Doubles, last_J: Ints) -> Doubles:
    """Thresholds that include these rows of descending scores and not the next: halfway to it, if
    there is one.
    """
    above = logq_M[last_J].astype(np.float32)
    below = logq_M[np.minimum(last_J + 1, len(logq_M) - 1)].astype(np.float32)
    return np.where(above > below, cut_between(above, below), cut_below(above))


def _prefix(value_M: Bools | Doubles) -> Doubles:
    return np.concatenate([[0.0], np.cumsum(value_M, dtype=np.float64)])


def _log(threshold: float | Doubles) -> Doubles:
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(threshold), dtype=np.float64)
