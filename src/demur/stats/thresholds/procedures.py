"""Several thresholds and several promises at once: exact procedures, each certifying the vector it returns.

Within one vector no correction is paid across goals: "some goal fails" is rejected when every goal's exact p-value is
<= delta (intersection-union). Only the search over vectors costs something. Sources: risk_control P1 to P5; Learn then
Test (arXiv 2110.01052); Bretz, Maurer, Brannath and Posch (2009) for the graphical procedure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from demur.base.arrays import Bools, Doubles, Ints
from demur.base.errors import GoalError
from demur.core import bounds
from demur.core.goals.results import Certified, Failure, Uncertified
from demur.core.policy import ALWAYS, NEVER
from demur.stats.thresholds.closed_form import highest_keeping, lowest_keeping, too_few
from demur.stats.thresholds.explain import explain, in_vain
from demur.stats.thresholds.losses import Board, Loss, evidence_of
from demur.stats.thresholds.search import Path, Split, candidates, even_path, lenient_path, menu_of, split_rows
from demur.stats.thresholds.worth import Aim, best_within

Shares = Mapping[str, float]
_NONE = -1.0  # below every threshold: none keeps the goal
ORDER = "fixed-sequence testing of exact binomial p-values (arXiv 2110.01052)"


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
    explained: bool = True  # whether a failure should say whether it is infeasible, and what would do
    shares: Shares | None = None  # of level and delta per category, sum 1; budgets and graphical only

    @property
    def everyone(self) -> Bools:
        """All rows, as a part."""
        return np.ones(len(self.board.logq_N), dtype=bool)


def certify_path(request: Request) -> Certified | Failure:
    """P1: a strict-to-lenient path of vectors learnt on one part of the rows, tested along on the other.

    Along the path errors of refusing only grow and errors of answering only fall. So the test of the former starts at
    the strict end and stops at the first step with more errors than its rows allow; that of the latter starts at the
    lenient end (P3 along a path: each side gets half of delta where there are both). Every step in between is
    certified, and the one that serves the aim best is taken. O(n log n).
    """
    split = split_rows(request.board, request.learn_share, request.seed, request.losses)
    return _along(request, split, _path(request, split.learn_N), "learned path")


def certify_even(request: Request) -> Certified | Failure:
    """A path that catches the same share of each category, learnt on rows that no goal speaks of, tested on all others.

    For goals that only refusals can break, where too few rows are at hand to learn a path on some of them: no row of
    the goals' own kind is spent on learning.
    """
    if any(loss.when == "answered" for loss in request.losses):
        raise GoalError("method 'even' learns on rows to be refused, which a goal here speaks of", "use 'path'")
    split = split_rows(request.board, 0.0, request.seed, request.losses)
    return _along(request, split, even_path(request.board, split.learn_N, request.fixed), "even path")


def _along(request: Request, split: Split, path: Path, name: str) -> Certified | Failure:
    """Test along a path, on the rows that it was not learnt on, and take the certified step that serves the aim."""
    delta = request.delta / len({loss.when for loss in request.losses})
    allowed = _allowed(request, split, delta)
    if not isinstance(allowed, list):
        return allowed
    path = _capped(request, path, split, allowed)
    first_N = path.first_step(request.board)
    first, last = 0, len(path.group_S)
    for loss, most in zip(request.losses, allowed, strict=True):
        refused_S = _cumulative(first_N, len(path.group_S), loss.could_err_N & split.test_N)
        if loss.when == "refused":
            last = min(last, int(np.searchsorted(refused_S, most, side="right")) - 1)
        else:
            could_err = int((loss.could_err_N & split.test_N).sum())
            first = max(first, int(np.searchsorted(refused_S, could_err - most, side="left")))
    if last < first:  # the sides do not meet, or thresholds that are set otherwise already break a goal
        return _explained(request, split, delta)
    step = request.aim.best_step(first_N, first, last)
    refused_N = first_N <= step
    if request.aim.in_vain(refused_N):
        return in_vain(request.board, request.losses, delta, split)
    by_group = path.at(step, len(request.board.groups))
    return _certified(request, by_group, refused_N, split.test_N, f"{name}, {ORDER}")


def certify_vectors(request: Request) -> Certified | Failure:
    """P4: single vectors chosen on one part of the rows, safest first, tested in that order on the other.

    For goals of both directions. The test stops at the first vector that fails; of those certified the one that serves
    the aim best is taken.
    """
    split = split_rows(request.board, request.learn_share, request.seed, request.losses)
    allowed = _allowed(request, split, request.delta)
    if not isinstance(allowed, list):
        return allowed
    menu = menu_of(request.board, request.losses, request.aim.worth_N, split, request.fixed)
    best: tuple[float, tuple[float, ...], Bools] | None = None
    for thresholds in candidates(menu):
        refused_N = request.board.refused(thresholds)
        errors = [loss.rate(refused_N, split.test_N).hits for loss in request.losses]
        if any(k > most for k, most in zip(errors, allowed, strict=True)):
            break
        value = request.aim.value(refused_N)
        if best is None or value > best[0]:
            best = (value, thresholds, refused_N)
    if best is None:
        return _explained(request, split, request.delta)
    if request.aim.in_vain(best[2]):
        return in_vain(request.board, request.losses, request.delta, split)
    return _certified(request, best[1], best[2], split.test_N, f"learned vectors, {ORDER}")


def certify_shared(request: Request) -> Certified | Failure:
    """P3 and the closed form: the best single threshold between the limits that all rows certify."""
    limits = shared_limits(request)
    if not isinstance(limits, tuple):
        return limits
    return _within(request, [limits[0]], [limits[1]], "closed form, one shared threshold (arXiv 2110.01052)")


def shared_limits(request: Request) -> tuple[float, float] | Failure:
    """The certified range of one threshold: from below for false refusals, from above for missed ones.

    With goals on both sides each side gets half of delta; several goals on one side share its whole delta, because the
    most careful of their thresholds is where fixed-sequence testing of the largest p-value stops.
    """
    board, sides = request.board, {loss.when for loss in request.losses}
    delta, low, high = request.delta / len(sides), ALWAYS, NEVER
    for loss in request.losses:
        compared_M = board.logq_N[loss.could_err_N & (board.group_N == 0)].astype(np.float32)
        of = loss.of(request.everyone)
        if bounds.most_errors(of, loss.level, delta) is None:
            divided = f"tested at delta {delta:.3g}" if len(sides) > 1 else ""
            return too_few(loss.goal, of, bounds.rows_needed(loss.level, delta), divided)
        if loss.when == "refused":
            low = max(low, lowest_keeping(compared_M, of, loss.level, delta) or ALWAYS)
            continue
        never_M = np.full(int((loss.could_err_N & (board.group_N != 0)).sum()), -np.inf, dtype=np.float32)
        limit = highest_keeping(np.concatenate([compared_M, never_M]), of, loss.level, delta)
        high = min(high, _NONE if limit is None else limit)
    if low > high or low == NEVER:
        return _explained(request, Split(learn_N=request.everyone, test_N=request.everyone), delta)
    return low, high


def certify_budgets(request: Request) -> Certified | Failure:
    """P2: level and delta split over the categories, the closed form for each, on all rows.

    For goals that only refusals can break. Also promises each category its share. Conservative.
    """
    return _chains(request, _weights, "budgets per category, closed form (arXiv 2110.01052)")


def certify_graphical(request: Request) -> Certified | Failure:
    """P5: budgets, where a category certified down to its last row hands its delta on to the others.

    One chain of hypotheses per goal and category, strict to lenient; each passes all its weight to the next, the last
    to the heads of the unfinished chains. Errors grow along a chain, so a chain ends where the closed form says, and
    the graph needs no learning split.
    """
    return _chains(request, _funded, "graphical procedure over chains (Bretz et al. 2009)")


@dataclass(frozen=True, slots=True)
class _Chain:
    group: int
    logq_M: Doubles  # scores of the rows that can err in this group
    of: int
    level: float
    share: float  # of the request's delta
    counts: bool = True  # False: too few rows for its share; it stays at NEVER, another chain counts its doubtful rows

    def allowed(self, delta: float) -> int:
        """The most errors certified at this share of delta; -1 if none."""
        most = bounds.most_errors(self.of, self.level, delta) if delta > 0.0 else None
        return -1 if most is None else most


def _chains(request: Request, delta_of: Callable[[list[_Chain]], list[float]], method: str) -> Certified | Failure:
    if request.fixed:
        raise GoalError("a target rate of one category cannot be set beside budgets", "use the method 'path'")
    by_loss = [_chains_of(request, loss) for loss in request.losses]
    total = sum(chain.share for own in by_loss for chain in own)
    chains = [chain for own in by_loss for chain in _with_idle(own, request.delta / total)]
    low, deltas = [ALWAYS] * len(request.board.groups), delta_of(_scaled(chains, request.delta))
    # A chain begins at NEVER, which refuses doubtful rows still: if that is not certified, nothing is.
    if any(chain.counts and chain.allowed(weight) < 0 for chain, weight in zip(chains, deltas, strict=True)):
        return _divided_too_far(request, chains, deltas)
    for chain, weight in zip(chains, deltas, strict=True):
        if int((chain.logq_M == np.inf).sum()) > max(chain.allowed(weight), 0):
            return _explained(request, Split(learn_N=request.everyone, test_N=request.everyone), weight)
        limit = lowest_keeping(chain.logq_M.astype(np.float32), chain.of, chain.level, weight)
        low[chain.group] = max(low[chain.group], NEVER if limit is None else limit)
    return _within(request, low, [NEVER] * len(low), method)


def _with_idle(chains: list[_Chain], delta: float) -> list[_Chain]:
    """One goal's chains. Those that too few rows can certify hand their doubtful rows to the one with most to spend.

    Which ones these are follows from counts of rows, never from scores. delta: of the request, per unit of share.
    """
    able = [chain.allowed(delta * chain.share) >= 0 for chain in chains]
    if all(able) or not any(able):
        return chains
    heir = max((h for h, can in enumerate(able) if can), key=lambda h: chains[h].share)
    handed = sum(int((c.logq_M == np.inf).sum()) for c, can in zip(chains, able, strict=True) if not can)
    found = []
    for h, (chain, can) in enumerate(zip(chains, able, strict=True)):
        own_M = chain.logq_M if can else chain.logq_M[chain.logq_M < np.inf]
        logq_M = np.concatenate([own_M, np.full(handed, np.inf)]) if h == heir else own_M
        found.append(_Chain(chain.group, logq_M, chain.of, chain.level, chain.share, counts=can))
    return found


def _chains_of(request: Request, loss: Loss) -> list[_Chain]:
    if loss.when == "answered":
        raise GoalError(f"goal {loss.goal.text!r} cannot be split over categories", "use the method 'vectors'")
    board, of = request.board, loss.of(request.everyone)
    touched = loss.groups(board)
    share_G = _shares(request, touched)
    return [
        _Chain(g, logq_M[logq_M > -np.inf], of, loss.level * share, share)
        for g, share in zip(touched, share_G, strict=True)
        for logq_M in (board.compared_with(g)[loss.could_err_N],)
    ]


def _divided_too_far(request: Request, chains: Sequence[_Chain], deltas: Sequence[float]) -> Failure:
    """No category's share of level and delta can be promised on so many rows, even without an error among them."""
    needed, chain, delta = max(
        ((bounds.rows_needed(c.level, d), c, d) for c, d in zip(chains, deltas, strict=True) if c.counts),
        key=lambda t: t[0],
    )
    goal = next(loss.goal for loss in request.losses if chain.group in loss.groups(request.board))
    name = request.board.groups[chain.group][0]
    divided = f"level and delta are divided over the categories: {chain.level:.3g} of {name} at delta {delta:.3g}"
    return too_few(goal, chain.of, needed, divided)


def _shares(request: Request, touched: Sequence[int]) -> list[float]:
    """The shares of these groups of what one goal may spend: equal, or the caller's, scaled to those touched."""
    names = [request.board.groups[g][0] for g in range(len(request.board.groups))]
    given = request.shares
    if given is None:
        return [1.0 / len(touched)] * len(touched)
    if set(given) != set(names):
        raise GoalError(f"shares name {sorted(given)}, the active categories are {sorted(names)}", "one share each")
    check_shares(given)
    own = [given[names[g]] for g in touched]
    return [share / sum(own) for share in own]


def check_shares(shares: Shares) -> None:
    """Raise GoalError unless the shares are positive and sum to 1."""
    total = sum(shares.values())
    if not all(share > 0.0 for share in shares.values()) or not abs(total - 1.0) <= 1e-9:
        raise GoalError(f"shares {dict(shares)} sum to {total:g}, expected positive shares of 1", "scale them")


def _scaled(chains: Sequence[_Chain], delta: float) -> list[_Chain]:
    """The chains with their shares of delta; several goals split it evenly."""
    total = sum(chain.share for chain in chains)
    return [_Chain(c.group, c.logq_M, c.of, c.level, delta * c.share / total, counts=c.counts) for c in chains]


def _weights(chains: list[_Chain]) -> list[float]:
    return [chain.share for chain in chains]


def _funded(chains: list[_Chain]) -> list[float]:
    """Delta per chain once every finished one has handed its own on."""
    delta_H, open_H = [chain.share for chain in chains], set(range(len(chains)))
    while True:
        done = next((h for h in sorted(open_H) if len(chains[h].logq_M) <= chains[h].allowed(delta_H[h])), None)
        if done is None or len(open_H) == 1:
            return delta_H
        open_H.remove(done)
        for h in open_H:
            delta_H[h] += delta_H[done] / len(open_H)


def _within(request: Request, low: Sequence[float], high: Sequence[float], method: str) -> Certified | Failure:
    """The best vector between limits that are certified as a whole."""
    by_group = best_within(request.board, request.aim, low, high)
    refused_N = request.board.refused(by_group)
    if request.aim.in_vain(refused_N):
        everyone = Split(learn_N=request.everyone, test_N=request.everyone)
        return in_vain(request.board, request.losses, request.delta, everyone)
    return _certified(request, by_group, refused_N, request.everyone, method)


def _allowed(request: Request, split: Split, delta: float) -> list[int] | Failure:
    """The most errors each goal allows on the test rows; or which goal has too few of them."""
    found = []
    for loss in request.losses:
        of = loss.of(split.test_N)
        most = bounds.most_errors(of, loss.level, delta)
        if most is None:
            whole, needed = loss.of(request.everyone), bounds.rows_needed(loss.level, delta)
            share = of / whole if of else 1.0 - request.learn_share
            divided = f"{of} of them tested, at delta {delta:.3g}"
            return too_few(loss.goal, whole, int(np.ceil(needed / share)), divided)
        found.append(most)
    return found


def _path(request: Request, learn_N: Bools) -> Path:
    """The path that spends least of the goals that refusals break on those that answers break, or on the aim."""
    cost_N, needed_N = np.zeros(len(learn_N)), np.zeros(len(learn_N))
    for loss in request.losses:  # a goal close to its level makes its rows dear
        weight_N = cost_N if loss.when == "refused" else needed_N
        weight_N += (loss.could_err_N & learn_N) / (loss.level * max(loss.of(learn_N), 1))
    worth_N = np.where(learn_N, np.maximum(request.aim.worth_N, 0.0), 0.0)
    if needed_N.any():
        worth_N = needed_N + worth_N * (0.01 * needed_N.sum() / max(worth_N.sum(), 1e-12))
    return lenient_path(request.board, cost_N, worth_N, request.fixed)


def _capped(request: Request, path: Path, split: Split, allowed: Sequence[int]) -> Path:
    """The path without steps that would, by the learning rows, break a goal about some categories only.

    Otherwise that goal would end the test for all categories.
    """
    board = request.board
    for loss, most in zip(request.losses, allowed, strict=True):
        touched = loss.groups(board)
        if len(touched) == len(board.groups) or loss.when == "answered":
            continue
        first_N = path.first_step(board)
        errors_S = _cumulative(first_N, len(path.group_S), loss.could_err_N & split.learn_N)
        scale = loss.of(split.learn_N) / loss.of(split.test_N)
        limit = max(most - np.sqrt(most + 1.0), 0.0) * scale
        broken_S = np.isin(path.group_S, touched) & (errors_S[1:] > limit)
        path = Path(group_S=path.group_S[~broken_S], threshold_S=path.threshold_S[~broken_S], fixed=path.fixed)
    return path


def _cumulative(first_N: Ints, steps: int, member_N: Bools) -> Ints:
    """Members refused after 0, 1, ..., `steps` steps."""
    return np.cumsum(np.bincount(first_N[member_N], minlength=steps + 2))[: steps + 1]


def _certified(request: Request, by_group: Sequence[float], refused_N: Bools, part_N: Bools, method: str) -> Certified:
    return Certified(
        thresholds=request.board.thresholds(by_group),
        evidence=evidence_of(request.losses, refused_N, part_N, request.delta),
        method=method,
    )


def _explained(request: Request, split: Split, delta: float) -> Failure:
    """Why nothing is certified. delta: what each side was tested at."""
    if not request.explained:
        first = request.losses[0]
        reason = "not certified, and not asked why"
        of = first.of(request.everyone)
        return Uncertified(reason=reason, blocking=first.goal, rows=of, rows_needed=None, evidence=())
    return explain(request.board, request.losses, delta, split, request.fixed)
