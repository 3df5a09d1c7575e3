"""Sweeps of a policy's thresholds over labelled rows, and the operating curves read off them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from demur.base.arrays import Bools, Ints
from demur.core.decision import compared_scores, decide_many
from demur.core.policy import CurvePoint, Policy
from demur.core.rates import Rate
from demur.stats.labelled import LabelledScores
from demur.stats.thresholds.sweep import Sweep, SweepCounts, sweep_of

MOST_POINTS = 101


def pooled_sweep(policy: Policy, rows: LabelledScores) -> Sweep:
    """The sweep of one threshold shared by all active categories, on the score that the policy's
    rule compares.
    """
    may_refuse_N = decide_many(policy, rows.table.logp_NC).heaviest_N > 0
    return sweep_of(
        compared_scores(policy, rows.table.logp_NC)[may_refuse_N],
        rows.label_N[may_refuse_N],
        count_M=_counts(rows, may_refuse_N),
    )


def category_sweeps(policy: Policy, rows: LabelledScores) -> dict[str, Sweep]:
    """One sweep per category that may be emitted, over the rows whose heaviest active category it
    is.

    Under rule `heaviest` that of a locked category is over all rows, on its own score: it refuses
    over the heaviest. Sweeps then overlap, and what several of them refuse is at most the sum.
    """
    heaviest_N = decide_many(policy, rows.table.logp_NC).heaviest_N
    compared_N = compared_scores(policy, rows.table.logp_NC)
    logq_NC = np.minimum(policy.calibrator.apply(rows.table.logp_NC), np.float32(0.0))
    found = {}
    for column, (name, category) in enumerate(
        zip(policy.taxonomy.names, policy.categories, strict=True), start=1
    ):
        if not category.may_emit:
            continue
        own_N, value_N = heaviest_N == column, compared_N
        if category.locked and policy.rule == "heaviest":
            value_N = np.where(own_N, compared_N, logq_NC[:, column])
            own_N = own_N | (compared_N < np.inf)
        found[name] = sweep_of(
            value_N[own_N], rows.label_N[own_N], own=column, count_M=_counts(rows, own_N)
        )
    return found


def _counts(rows: LabelledScores, part_N: Bools) -> Ints | None:
    return None if rows.count_N is None else rows.count_N[part_N]


def with_curves(policy: Policy, rows: LabelledScores) -> Policy:
    """The policy with an operating curve for every category that may be emitted.

    At most 102 points, strict to lenient, at real cuts, in even steps of the refusal rate and at
    the policy's own. Under `heaviest` and `any` the other thresholds stay as in the policy; under
    `sum` the one shared threshold moves. Under the other rules no single threshold tells what
    happens: no curve.
    """
    locks = policy.rule == "heaviest" and any(c.locked and c.may_emit for c in policy.categories)
    if policy.rule in ("heaviest", "sum") and not locks:
        sweeps = category_sweeps(policy, rows)
        points = {name: _by_sweep(policy, rows, name, sweep) for name, sweep in sweeps.items()}
    elif policy.rule == "any" or locks:
        points = {
            n: _by_decisions(policy, rows, n)
            for n in policy.taxonomy.names
            if policy.category(n).may_emit
        }
    else:
        points = {}
    categories = zip(policy.taxonomy.names, policy.categories, strict=True)
    return replace(
        policy, categories=tuple(replace(c, curve=points.get(name, ())) for name, c in categories)
    )


def _by_sweep(
    policy: Policy, rows: LabelledScores, name: str, sweep: Sweep
) -> tuple[CurvePoint, ...]:
    # The cut of the policy's own threshold is always among them: what it does now can be read off
    # the curve.
    own = int((sweep.threshold_J >= policy.category(name).threshold).sum()) - 1
    at = np.union1d(_even(sweep), [max(own, 0)])
    return _points(
        sweep.threshold_J[at].tolist(),
        sweep.counts(sweep.cut_J[at]),
        rows,
        policy.taxonomy.column(name),
    )


def _by_decisions(policy: Policy, rows: LabelledScores, name: str) -> tuple[CurvePoint, ...]:
    """Rule `any` and locks let categories hand prompts to one another: ask decide_many at every
    point.
    """
    column = policy.taxonomy.column(name)
    logq_N = np.minimum(policy.calibrator.apply(rows.table.logp_NC)[:, column], np.float32(0.0))
    finite_N = np.isfinite(logq_N)
    sweep = sweep_of(logq_N[finite_N], rows.label_N[finite_N])
    thresholds = sweep.threshold_J[_even(sweep)].tolist()
    free = replace(policy, categories=tuple(replace(c, limits=None) for c in policy.categories))
    emitted_TN = np.array(
        [
            decide_many(free.with_thresholds({name: t}), rows.table.logp_NC).choice_N == column
            for t in thresholds
        ]
    )
    # Requests per (threshold, row): a row counts as often as its prompt came.
    request_TN = emitted_TN * (1 if rows.count_N is None else rows.count_N)
    refused, false = request_TN.sum(axis=1), request_TN[:, rows.label_N == 0].sum(axis=1)
    own = request_TN[:, rows.label_N == column].sum(axis=1)
    return _points(
        thresholds,
        SweepCounts(refused=refused, false=false, caught=refused - false, own=own),
        rows,
        column,
    )


def _even(sweep: Sweep) -> Ints:
    """Indices of at most MOST_POINTS cuts, in even steps of rows refused, the first and the last
    among them.
    """
    wanted = np.linspace(sweep.cut_J[0], sweep.cut_J[-1], MOST_POINTS)
    return np.unique(np.searchsorted(sweep.cut_J, wanted, side="right") - 1)


def _points(
    thresholds: list[float], counts: SweepCounts, rows: LabelledScores, column: int
) -> tuple[CurvePoint, ...]:
    n, comply, own = rows.requests(), rows.to_answer, rows.requests(rows.label_N == column)
    table = zip(
        thresholds, counts.refused.tolist(), counts.false.tolist(), counts.own.tolist(), strict=True
    )
    return tuple(
        CurvePoint(
            threshold=threshold,
            refusal_rate=Rate(hits=refused, of=n),
            false_refusal=Rate(hits=false, of=comply),
            missed_refusal=Rate(hits=own - emitted_own, of=own),
        )
        for threshold, refused, false, emitted_own in table
    )
