"""P1 and P4: an order of threshold vectors learnt on some rows, tested along on the others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from demur.base.arrays import Bools, Ints
from demur.base.errors import GoalError
from demur.core.rates import most_errors, rows_needed
from demur.stats.thresholds.closed_form import too_few
from demur.stats.thresholds.explain import in_vain
from demur.stats.thresholds.procedures.request import Request, certified, explained
from demur.stats.thresholds.results import Certified, Failure
from demur.stats.thresholds.search import (
    Path,
    Split,
    candidates,
    even_path,
    lenient_path,
    menu_of,
    split_rows,
)

ORDER = "fixed-sequence testing of exact binomial p-values (arXiv 2110.01052)"


def certify_path(request: Request) -> Certified | Failure:
    """P1: a strict-to-lenient path of vectors learnt on one part of the rows, tested along on the
    other.

    Along the path errors of refusing only grow and errors of answering only fall. So the test of
    the former starts at the strict end and stops at the first step with more errors than its rows
    allow; that of the latter starts at the lenient end (P3 along a path: each side gets half of
    delta where there are both). Every step in between is certified, and the one that serves the aim
    best is taken. O(n log n).
    """
    split = split_rows(request.board, request.learn_share, request.seed, request.losses)
    return _along(request, split, _path(request, split.learn_N), "learned path")


def certify_even(request: Request) -> Certified | Failure:
    """A path that catches the same share of each category, learnt on rows that no goal speaks of,
    tested on all others.

    For goals that only refusals can break, where too few rows are at hand to learn a path on some
    of them: no row of the goals' own kind is spent on learning.
    """
    if any(loss.when == "answered" for loss in request.losses):
        raise GoalError(
            "method 'even' learns on rows to be refused, which a goal here speaks of", "use 'path'"
        )
    split = split_rows(request.board, 0.0, request.seed, request.losses)
    return _along(
        request, split, even_path(request.board, split.learn_N, request.fixed), "even path"
    )


def _along(request: Request, split: Split, path: Path, name: str) -> Certified | Failure:
    """Test along a path, on the rows that it was not learnt on, and take the certified step that
    serves the aim.
    """
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
    # the sides do not meet, or thresholds that are set otherwise already break a goal
    if last < first:
        return explained(request, split, delta)
    step = request.aim.best_step(first_N, first, last)
    refused_N = first_N <= step
    if request.aim.in_vain(refused_N):
        return in_vain(request.board, request.losses, delta, split)
    by_group = path.at(step, len(request.board.groups))
    return certified(request, by_group, refused_N, split.test_N, f"{name}, {ORDER}")


def certify_vectors(request: Request) -> Certified | Failure:
    """P4: single vectors chosen on one part of the rows, safest first, tested in that order on the
    other.

    For goals of both directions. The test stops at the first vector that fails; of those certified
    the one that serves the aim best is taken.
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
        return explained(request, split, request.delta)
    if request.aim.in_vain(best[2]):
        return in_vain(request.board, request.losses, request.delta, split)
    return certified(request, best[1], best[2], split.test_N, f"learned vectors, {ORDER}")


def _allowed(request: Request, split: Split, delta: float) -> list[int] | Failure:
    """The most errors each goal allows on the test rows; or which goal has too few of them."""
    found = []
    for loss in request.losses:
        of = loss.of(split.test_N)
        most = most_errors(of, loss.level, delta)
        if most is None:
            whole, needed = loss.of(request.everyone), rows_needed(loss.level, delta)
            share = of / whole if of else 1.0 - request.learn_share
            divided = f"{of} of them tested, at delta {delta:.3g}"
            return too_few(loss.goal, whole, int(np.ceil(needed / share)), divided)
        found.append(most)
    return found


def _path(request: Request, learn_N: Bools) -> Path:
    """The path that spends least of the goals that refusals break on those that answers break, or
    on the aim.
    """
    cost_N, needed_N = np.zeros(len(learn_N)), np.zeros(len(learn_N))
    for loss in request.losses:  # a goal close to its level makes its rows dear
        weight_N = cost_N if loss.when == "refused" else needed_N
        weight_N += (loss.could_err_N & learn_N) / (loss.level * max(loss.of(learn_N), 1))
    worth_N = np.where(learn_N, np.maximum(request.aim.worth_N, 0.0), 0.0)
    if needed_N.any():
        worth_N = needed_N + worth_N * (0.01 * needed_N.sum() / max(worth_N.sum(), 1e-12))
    return lenient_path(request.board, cost_N, worth_N, request.fixed)


def _capped(request: Request, path: Path, split: Split, allowed: Sequence[int]) -> Path:
    """The path without steps that would, by the learning rows, break a goal about some categories
    only.

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
        path = Path(
            group_S=path.group_S[~broken_S],
            threshold_S=path.threshold_S[~broken_S],
            fixed=path.fixed,
        )
    return path


def _cumulative(first_N: Ints, steps: int, member_N: Bools) -> Ints:
    """Members refused after 0, 1, ..., `steps` steps."""
    return np.cumsum(np.bincount(first_N[member_N], minlength=steps + 2))[: steps + 1]
