"""Every threshold at once: sort the scores, count prefixes, look thresholds up (risk_control:
separability).

Under rule `heaviest` the heaviest category of a row does not depend on any threshold, so a row's
decision depends on one threshold only, and every count is a sum over groups of functions of one
threshold. Shapes: M rows of a sweep, P = M + 1 prefixes, J cuts, T thresholds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from demur.base.arrays import Doubles, Floats, Ints
from demur.core.decision import compared_scores, decide_many
from demur.core.policy import Policy
from demur.core.threshold import NEVER
from demur.stats.labelled import LabelledScores
from demur.stats.thresholds.cuts import cut_above, cut_below

NO_CATEGORY = -1  # no row has this label


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Counts:
    """What a threshold does to the rows of a sweep; one entry per threshold asked for."""

    refused: Ints  # rows at or above the threshold
    false: Ints  # of these, to be answered
    caught: Ints  # of these, to be refused, with whatever category
    own: Ints  # of these, to be refused with the sweep's own category; 0 for a pooled sweep


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Sweep:
    """M rows that one threshold decides, sorted once.

    A cut is a prefix length that some threshold refuses: that of NEVER, then the end of each run of
    tied scores. NEVER refuses doubtful rows only.
    """

    logq_M: Doubles  # float32 values, descending; +inf where doubtful
    caught_P: Ints  # rows to be refused among the first 0, 1, ..., M
    own_P: Ints  # rows of the sweep's own category among them
    cut_J: Ints  # cuts, ascending: strict to lenient
    # the threshold of each cut: NEVER, then just below the last score that it includes
    threshold_J: Doubles

    def counts(self, prefix: Ints) -> Counts:
        """What refusing the first so many rows does."""
        caught = self.caught_P[prefix]
        return Counts(refused=prefix, false=prefix - caught, caught=caught, own=self.own_P[prefix])

    @property
    def at_cuts(self) -> Counts:
        """What each cut does, strict to lenient."""
        return self.counts(self.cut_J)

    def at_thresholds(self, threshold_T: Doubles) -> Counts:
        """What arbitrary thresholds (probabilities in [0, 1], or NEVER) do: one binary search
        each.
        """
        with np.errstate(divide="ignore"):
            log_threshold_T = np.log(threshold_T)
        return self.counts(np.searchsorted(-self.logq_M, -log_threshold_T, side="right"))


def sweep_of(logq_M: Floats, label_M: Ints, own: int = NO_CATEGORY) -> Sweep:
    """The sweep of these scores and labels. own: the label of the sweep's category.

    logq_M: natural log, float32, finite; +inf in rows that every threshold refuses.
    """
    order = np.argsort(-logq_M, kind="stable")
    logq_M, label_M = logq_M[order], label_M[order]
    always = int((logq_M == np.inf).sum())
    last_M = np.ones(len(logq_M), dtype=bool)
    last_M[:-1] = cut_above(logq_M[1:]) <= cut_below(logq_M[:-1])
    last_M[:always] = False
    ends = np.flatnonzero(last_M)
    return Sweep(
        logq_M=logq_M.astype(np.float64),
        caught_P=_prefixes(label_M != 0),
        own_P=_prefixes(label_M == own),
        cut_J=np.concatenate([[always], ends + 1]),
        threshold_J=np.concatenate([[NEVER], cut_below(logq_M[ends])]),
    )


def pooled_sweep(policy: Policy, rows: LabelledScores) -> Sweep:
    """The sweep of one threshold shared by all active categories, on the score that the policy's
    rule compares.
    """
    may_refuse_N = decide_many(policy, rows.table.logp_NC).heaviest_N > 0
    return sweep_of(
        compared_scores(policy, rows.table.logp_NC)[may_refuse_N], rows.label_N[may_refuse_N]
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
        found[name] = sweep_of(value_N[own_N], rows.label_N[own_N], own=column)
    return found


def _prefixes(member_M: npt.NDArray[np.bool_]) -> Ints:
    return np.concatenate([[0], np.cumsum(member_M, dtype=np.int64)])
