"""Recounting certified promises: the rows that each was counted on are found again from the policy,
the rows and the seed, never taken on trust.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from demur.base.arrays import Bools
from demur.core.goals.goal import Promise
from demur.core.goals.promised import PromisedGoal
from demur.core.policy import Policy
from demur.core.rates import Rate, decimal_fraction
from demur.stats.labelled import LabelledScores
from demur.stats.slices import expand_slices
from demur.stats.thresholds.certify import CertifyOptions
from demur.stats.thresholds.losses import decided_by, grouped_by_policy, losses_of, rows_of
from demur.stats.thresholds.problem import Arrived, GroupedScores, Loss
from demur.stats.thresholds.procedures.anytime import anytime_split, anytime_upper
from demur.stats.thresholds.procedures.search import split_rows
from demur.stats.units import one_per_group


@dataclass(frozen=True, kw_only=True, slots=True)
class Recount:
    """The recount of a promise."""

    rate: Rate  # errors out of the rows that the promise is about
    ids: tuple[str, ...]  # of these rows
    # one-sided bound of the rate at the promise's confidence (demur.stats.units); 1 without one
    upper: float


def recount(
    policy: Policy,
    promise: Promise,
    rows: LabelledScores,
    seeds: Sequence[int],
    arrived: Arrived | None = None,
) -> Recount:
    """Recount a promise's rate under this policy on these rows: on all of them, or on those a
    learned order is tested on.

    Of the ways in which rows are chosen (the seed draws one row of each group, and the rows to test
    on) the first that gives the promise's own counts; if none does, the first. arrived: of a
    promise by the method "anytime", how its rows came, in whose order they are; only those that
    test are counted then, and the bound is the one that holds at every look. Raises GoalError or
    DataError where the rows cannot tell.
    """
    goals = expand_slices([promise.goal], policy, rows)
    rows = rows_of(goals[0], rows)
    board = grouped_by_policy(goals[0], policy, rows)
    refused_N, held_N = decided_by(goals[0], policy, rows)
    parts = _parts if arrived is None else partial(_anytime_parts, policy, arrived)
    counted = [
        (own.counted_under(refused_N, part_N), own.errors(refused_N, held_N))
        for seed in dict.fromkeys(seeds)
        for (loss,) in (losses_of(goals, policy, board, seed),)
        for own, part_N in parts(loss, board, seed)
    ]
    rows_M, error_N = next((c for c in counted if c[0].rate(c[1]) == promise.rate), counted[0])
    sure = promise.confidence is not None and 0.0 < promise.confidence < 1.0
    delta = float(1 - decimal_fraction(promise.confidence or 0.0))
    bound = rows_M.upper if arrived is None else partial(anytime_upper, rows_M)
    return Recount(
        rate=rows_M.rate(error_N),
        ids=tuple(rows.table.ids[n] for n in rows_M.row_M),
        upper=bound(error_N, delta) if sure else 1.0,
    )


def _parts(loss: Loss, board: GroupedScores, seed: int) -> Iterator[tuple[Loss, Bools]]:
    """The parts of the rows that a promise may have been counted on: which one is not stored.

    All rows, or those that a learned order of vectors is tested on; of either, versions before
    units counted one drawn row of each group.
    """
    everyone_N = np.ones(len(board.logq_N), dtype=bool)
    split = split_rows(board, CertifyOptions().learn_share, seed)
    for own, part_N in ((loss, everyone_N), (loss.tested_on(split), split.test_N)):
        yield own, part_N
        yield own, part_N & one_per_group(loss.unit_N, loss.among_N, seed)


def _anytime_parts(
    policy: Policy, arrived: Arrived, loss: Loss, board: GroupedScores, seed: int
) -> Iterator[tuple[Loss, Bools]]:
    """The parts of the rows that test a path by the method "anytime", for all goals together."""
    found = (p.goal for p in policy.promises if isinstance(p.goal, PromisedGoal))
    # no goal about stops goes with this method
    goals = [goal for goal in found if not goal.midway]
    among_N = np.any([one.among_N for one in losses_of(goals, policy, board, seed)], axis=0)
    for learns in (False, True):
        yield loss, anytime_split(board.rows, among_N, arrived, learns=learns).test_N


def rows_digest(ids: Iterable[str]) -> str:
    """sha256 of a set of rows, by the digests of their ids, in any order: ids may say what must
    stay with the operator.
    """
    each = sorted(hashlib.sha256(i.encode()).hexdigest() for i in ids)
    return f"sha256:{hashlib.sha256(chr(10).join(each).encode()).hexdigest()}"


def with_row_digests(
    policy: Policy, rows: LabelledScores, seeds: Sequence[int], arrived: Arrived | None = None
) -> Policy:
    """Record in each newly certified promise the digest of the rows that it was counted on; for
    `arrived` see recount.

    Not where hands corrected a judge's labels: then no count alone is the evidence.
    """
    if rows.hand_N is not None:
        return policy

    # a recount that differs is no evidence: the promise then names no rows
    def named(promise: Promise) -> Promise:
        if promise.status != "certified" or promise.digest is not None:
            return promise
        again = recount(policy, promise, rows, seeds, arrived)
        return replace(promise, rows=rows_digest(again.ids) if again.rate == promise.rate else None)

    return replace(policy, promises=tuple(map(named, policy.promises)))
