"""Monitors of `demur watch` and of servers: their reference scores, their rows in files, and the
counting of scores and labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from demur.base.arrays import Floats
from demur.base.errors import ArtifactError, DataError, DemurError
from demur.core.decision import decide_many
from demur.core.goals.parse import stated_goal
from demur.core.goals.promised import promised
from demur.core.policy import Policy
from demur.core.rows.facets import OF_LABELS, Facet
from demur.core.score import ScoreTable
from demur.stats.drift.audit import Audit
from demur.stats.drift.martingale import Martingale
from demur.stats.drift.monitor import Monitor, observe_labels, observe_scores
from demur.stats.labelled import LabelledScores, Traits, label_scores, traits_from
from demur.stats.thresholds.losses import grouped_by_policy, losses_of
from demur.stats.units import one_per_group
from demur.store.results.monitor_file import AuditRow, FeedbackRow, MonitorRow, SeriesRow
from demur.store.rows import read_policy_rows
from demur.store.run import RunFolder
from demur.store.scores.rewritten import decided_scores
from demur.store.scores.tables import read_scores

UNSAID = ""  # stands for what the label of a request does not say; no slice is called so


def reference_of(folder: RunFolder, policy: Policy, seed: int = 0) -> Floats:
    """The scores of the policy's calibrate rows, one of each group, so that they are independent.

    Shape (N, C). Raises PolicyError if the scores are another model's.
    """
    table, model = read_scores(decided_scores(folder, "calibrate", policy.fingerprint))
    policy.require_model(model)
    rows = label_scores(read_policy_rows(folder, "calibrate"), policy.taxonomy, table)
    alone_N = one_per_group(rows.group_N, np.ones(len(rows.label_N), dtype=bool), seed)
    return np.asarray(rows.table.logp_NC[alone_N], dtype=np.float32)


def monitor_of(row: MonitorRow, fresh: Monitor, path: Path) -> Monitor:
    """A monitor from its row in a file. Raises ArtifactError unless it has the series and audits of
    a fresh one.
    """
    try:
        monitor = Monitor(
            series=tuple(Martingale(**dict(r)) for r in row.series),
            audits=tuple(
                Audit(
                    goal=promised(stated_goal(a.risk, a.level)),
                    rate=a.rate,
                    highest_log_e=a.highest_log_e,
                )
                for a in row.audits
            ),
        )
    except DemurError as e:  # also a risk or level that no promise has
        raise ArtifactError(
            f"{path} is damaged: {e.message}", "restore it, or put it away: start afresh"
        ) from None
    if (found := _names(monitor)) != (expected := _names(fresh)):
        raise ArtifactError(
            f"{path} is damaged: it watches {', '.join(found)}, expected {', '.join(expected)}",
            "restore it, or put it away: start afresh",
        )
    return monitor


def row_of(monitor: Monitor) -> MonitorRow:
    """The row of a monitor in a file."""
    audits = tuple(
        AuditRow(
            risk=a.risk,
            level=a.level,
            rate=a.rate,
            highest_log_e=a.highest_log_e,
        )
        for a in monitor.audits
    )
    return MonitorRow(series=tuple(SeriesRow(**asdict(s)) for s in monitor.series), audits=audits)


def after_scores(monitor: Monitor, policy: Policy, logp_TC: Floats, seed: int = 0) -> Monitor:
    """Count live scores, in order. Promises about the share of traffic that is refused need no
    labels: they are audited here.
    """
    # Uniform numbers break ties with reference scores. Seeded by the number of scores before, so
    # that each batch has its own, and the same ones if it is repeated.
    rng = np.random.default_rng([seed, monitor.series[0].steps])
    monitor = observe_scores(monitor, logp_TC, rng.random((len(logp_TC), len(monitor.series))))
    table = ScoreTable(ids=tuple(map(str, range(len(logp_TC)))), logp_NC=logp_TC)
    # Whether a request is refused does not depend on its label: any label will do.
    unlabelled = LabelledScores(table=table, label_N=np.zeros(len(logp_TC), dtype=np.int64))
    for a in monitor.audits:
        if a.of_traffic:
            monitor = observe_labels(monitor, a.risk, _errors(policy, a, unlabelled))
    return monitor


def after_labels(
    monitor: Monitor, policy: Policy, table: ScoreTable, labels: Mapping[str, FeedbackRow]
) -> Monitor:
    """Count labels of scored requests, in the order of the table.

    A promise about a slice counts the labels that say each facet by which the slice is defined.
    """
    ids = tuple(i for i in table.ids if i in labels)
    if not ids:
        return monitor
    label_N = np.array([policy.taxonomy.column(labels[i].label) for i in ids], dtype=np.int64)
    rows = LabelledScores(
        table=table.select(ids), label_N=label_N, traits=_traits([labels[i] for i in ids], label_N)
    )
    for a in monitor.audits:
        if not a.of_traffic:
            monitor = observe_labels(monitor, a.risk, _errors(policy, a, rows))
    return monitor


def _names(monitor: Monitor) -> list[str]:
    """The names of a monitor's series and audits, for comparison and in errors."""
    return [
        *(s.series for s in monitor.series),
        *(f"{a.risk} <= {a.level:g}" for a in monitor.audits),
    ]


def _traits(rows: Sequence[FeedbackRow], label_N: npt.NDArray[np.int64]) -> Traits:
    """What the labels say of each request by facet; UNSAID where a label says nothing."""
    found: dict[Facet, list[str]] = {
        facet: [row.traits.get(facet, UNSAID) for row in rows] for facet in OF_LABELS
    }
    # A request labelled with a category is of kind "refusal" by definition; one to be answered may
    # be contrast or benign. A promise about a category goes by label_N.
    found["kind"] = [
        row.kind or ("refusal" if label else UNSAID)
        for row, label in zip(rows, label_N.tolist(), strict=True)
    ]
    return traits_from(found)


def _errors(policy: Policy, audit: Audit, rows: LabelledScores) -> npt.NDArray[np.bool_]:
    """Whether the policy errs, for each row that the promise is about, in order."""
    # Live requests have no groups: each counts.
    board = grouped_by_policy(policy, replace(rows, group_N=None))
    try:
        (loss,) = losses_of([audit.goal], policy, board, 0)
    except DataError:  # none of these rows is of the promise's kind
        return np.zeros(0, dtype=bool)
    refused_N = decide_many(policy, rows.table.logp_NC).refuses_N
    return np.asarray(loss.errors(refused_N)[loss.among_N], dtype=bool)
