"""Decisions of least expected cost, from calibrated probabilities. They are as good as the calibration near the cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from demur.base.arrays import Doubles, Floats, Ints
from demur.base.errors import GoalError, ScoreError
from demur.core.goal import Goal
from demur.core.guarantee import Promise
from demur.core.policy import Policy
from demur.core.taxonomy import Taxonomy
from demur.stats.labelled import LabelledScores
from demur.stats.thresholds.curve import with_curves
from demur.stats.thresholds.select import fitting


def cost_thresholds(goal: Goal, taxonomy: Taxonomy) -> dict[str, float]:
    """Per category c the probability F / (F + M_c) from which on refusing costs less than answering.

    F, M_c: costs of a false and of a missed refusal. Exact where all probability lies on the answer and one category;
    `cheapest` weighs the others, too. Raises GoalError on a goal that gives no costs or names an unknown category.
    """
    false, missed_K = _costs(goal, taxonomy)
    return {name: float(false / (false + m)) for name, m in zip(taxonomy.names, missed_K, strict=True)}


def cost_policy(goal: Goal, template: Policy) -> Policy:
    """The template with the thresholds of least expected cost. No label is looked at: the calibrator answers for it."""
    return template.with_thresholds(cost_thresholds(goal, template.taxonomy))


def by_probabilities(goals: Sequence[Goal], template: Policy, rows: LabelledScores, *, data_digest: str) -> Policy:
    """`cost_policy` with its promise, and with operating curves on these rows. The thresholds look at no label.

    Raises GoalError unless the one goal gives costs that thresholds can weigh, under rule `heaviest`.
    """
    goal = goals[0]
    if len(goals) != 1 or goal.kind != "cost":
        raise GoalError(
            f"goals {', '.join(repr(g.text) for g in goals)} cannot be met by probabilities alone",
            "one goal such as 'cost: false=1 missed=5', or cost_from = \"labels\"",
        )
    if template.rule != "heaviest" or goal.cost_wrong:
        raise GoalError(
            f"goal {goal.text!r} under rule {template.rule!r}: thresholds weigh a false against a missed refusal, each "
            "category by itself",
            "use rule 'heaviest' and no cost of 'wrong', or cost_from = \"labels\"",
        )
    fitting(goal, template)
    promise = Promise(
        risk=goal.risk,
        level=None,
        confidence=None,
        status="measured",
        rate=None,
        data_digest=data_digest,
        method="by calibrated probabilities, no label counted; holds as far as they do (Elkan 2001)",
    )
    return replace(with_curves(cost_policy(goal, template), rows), promises=(promise,))


def cheapest(goal: Goal, taxonomy: Taxonomy, logq_NC: Floats) -> Ints:
    """The column of least expected cost per row, 0 = answer, from calibrated natural-log probabilities, shape (N, C).

    Answering costs sum M_c q_c; refusing with k costs F q_0 + W sum of q_c over the categories c != k. Ties refuse.
    Elkan (2001).
    """
    false, missed_K = _costs(goal, taxonomy)
    if logq_NC.ndim != 2 or logq_NC.shape[1] != 1 + len(missed_K):
        raise ScoreError(f"probabilities of shape {logq_NC.shape} for {1 + len(missed_K)} control tokens", "one each")
    q_NC = np.exp(logq_NC.astype(np.float64))
    heaviest_N = q_NC[:, 1:].argmax(axis=1)
    others_N = q_NC[:, 1:].sum(axis=1) - q_NC[np.arange(len(q_NC)), heaviest_N + 1]
    refusing_N = false * q_NC[:, 0] + goal.cost_wrong * others_N
    return np.where(refusing_N <= q_NC[:, 1:] @ missed_K, heaviest_N + 1, 0).astype(np.int64)


def shift_prior(logq_NC: Floats, prior_C: Doubles, new_prior_C: Doubles) -> Floats:
    """The probabilities under other shares of the classes, the classes themselves unchanged: q' ~ q * new / old.

    prior_C, new_prior_C: shares of the columns, each summing to 1; old ones above 0. Returns natural logs that
    sum to 1. Raises GoalError on shares that are none.
    """
    for share_C in (prior_C, new_prior_C):
        if share_C.shape != logq_NC.shape[1:] or (share_C < 0).any() or abs(share_C.sum() - 1.0) > 1e-9:
            raise GoalError(f"shares {share_C.tolist()} sum to {share_C.sum():g}, expected 1 over the columns", "scale")
    if (prior_C == 0).any():
        raise GoalError(f"shares {prior_C.tolist()} hold a 0", "a class that never occurred says nothing about itself")
    with np.errstate(divide="ignore"):
        shifted_NC = logq_NC.astype(np.float64) + np.log(new_prior_C) - np.log(prior_C)
    shifted_NC -= np.logaddexp.reduce(shifted_NC, axis=1)[:, None]
    return np.minimum(shifted_NC, 0.0).astype(np.float32)


def _costs(goal: Goal, taxonomy: Taxonomy) -> tuple[float, Doubles]:
    if goal.cost_false is None or goal.cost_missed is None:
        raise GoalError(f"goal {goal.text!r} gives no costs", "such as 'cost: false=1 missed=5'")
    known = dict(goal.cost_missed_of)
    for name in known:
        if name not in taxonomy.names:
            known_names = ", ".join(taxonomy.names)
            raise GoalError(f"goal {goal.text!r} names unknown category {name!r}", f"known: {known_names}")
    return goal.cost_false, np.array([known.get(name, goal.cost_missed) for name in taxonomy.names])
