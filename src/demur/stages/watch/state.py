"""Monitors of `demur watch` and of servers: their reference scores, their rows in files, and the
counting of scores and labels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from demur.base.arrays import Bools, Floats
from demur.base.errors import ArtifactError, DataError, DemurError
from demur.core.decision import decide_many
from demur.core.goals.parse import stated_goal
from demur.core.goals.promised import promised
from demur.core.policy import Policy
from demur.core.rows.facets import OF_LABELS, Facet
from demur.core.score import ScoreTable
from demur.stats.drift import audit, martingale
from demur.stats.drift.audit import Audit
from demur.stats.drift.martingale import Martingale
from demur.stats.drift.monitor import Monitor, observe_labels, observe_traffic
from demur.stats.drift.sessions import LiveRows, OpenSession
from demur.stats.drift.wealth import Wealth
from demur.stats.labelled import LabelledScores, Traits, label_scores, traits_from
from demur.stats.thresholds.losses import grouped_by_policy, losses_of
from demur.stats.units import one_per_group
from demur.store.results.monitor_file import (
    AuditRow,
    FeedbackRow,
    MonitorRow,
    SeriesRow,
    SessionRow,
    WealthRow,
)
from demur.store.rows import read_policy_rows
from demur.store.run import RunFolder
from demur.store.scores.rewritten import decided_scores
from demur.store.scores.tables import read_scores

MOST_REFERENCE = 1_000_000  # scores of reference, about
UNSAID = ""  # stands for what the label of a request does not say; no slice is called so


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Traffic:
    """T live scores in order, as a file or a server has them."""

    logp_TC: Floats
    session_T: Sequence[str | None]  # keys of sessions: session_key. None: a unit of its own
    at_T: Sequence[float]  # when they came, in seconds; all 0 where that is not known


def session_key(tenant: str, session: str) -> str:
    """What states keep of a session's id: a digest, so that no name of a user stands in them."""
    named = f"{tenant}\n{session}".encode(errors="surrogatepass")
    return hashlib.blake2b(named, digest_size=8).hexdigest()


def calibrate_rows(folder: RunFolder, policy: Policy) -> LabelledScores:
    """The policy's calibrate rows. Raises PolicyError if their scores are another model's."""
    table, model = read_scores(decided_scores(folder, "calibrate", policy.fingerprint))
    policy.require_model(model)
    return label_scores(read_policy_rows(folder, "calibrate"), policy.taxonomy, table)


def reference_of(rows: LabelledScores, seed: int = 0) -> Floats:
    """The scores of calibrate rows: one row of each unit, so that they are independent, as often as
    it stands for requests. Shape (N, C).
    """
    alone_N = one_per_group(rows.group_N, np.ones(len(rows.label_N), dtype=bool), seed)
    # Live traffic has a popular prompt as often as it is asked: so has the reference.
    times_N = alone_N * (1 if rows.count_N is None else rows.count_N)
    # in the same shares where that would be more scores than need be held at once
    if (total := int(times_N.sum())) > MOST_REFERENCE:
        times_N = np.ceil(times_N * (MOST_REFERENCE / total)).astype(np.int64)
    return np.asarray(np.repeat(rows.table.logp_NC, times_N, axis=0), dtype=np.float32)


def monitor_of(row: MonitorRow, fresh: Monitor, path: Path) -> Monitor:
    """A monitor from its row in a file. Raises ArtifactError unless it has the series and audits of
    a fresh one.
    """
    try:
        series = tuple(_series(r) for r in row.series)
        steps = series[0].steps if series else 0
        monitor = Monitor(
            series=series,
            audits=tuple(_audit(a) for a in row.audits),
            open_sessions=tuple(OpenSession(**dict(r)) for r in row.open_sessions),
            requests=steps if row.requests is None else row.requests,
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
    widths = {(len(s.logp_C), len(s.errors_A)) for s in monitor.open_sessions}
    if widths - {(len(fresh.series), len(fresh.of_traffic))}:
        raise ArtifactError(
            f"{path} is damaged: an open session has scores or errors of another length",
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
            units=a.units,
            wealth=WealthRow(**asdict(a.wealth)),
        )
        for a in monitor.audits
    )
    return MonitorRow(
        series=tuple(SeriesRow(**asdict(s)) for s in monitor.series),
        audits=audits,
        open_sessions=tuple(SessionRow(**asdict(s)) for s in monitor.open_sessions),
        requests=monitor.requests,
    )


def after_scores(
    monitor: Monitor, policy: Policy, traffic: Traffic, seed: int = 0, *, ended: bool = False
) -> Monitor:
    """Count live scores, in order. Promises about the share of traffic that is refused need no
    labels: they are audited here.

    ended: all sessions end with these scores.
    """
    rows = len(traffic.logp_TC)
    if not rows:
        return monitor
    table = ScoreTable(ids=tuple(map(str, range(rows))), logp_NC=traffic.logp_TC)
    # Whether a request is refused does not depend on its label: any label will do.
    unlabelled = LabelledScores(table=table, label_N=np.zeros(rows, dtype=np.int64))
    errors = [_errors(policy, a, unlabelled)[0] for a in monitor.of_traffic]
    # Uniform numbers break ties with reference scores, and draw the request that stands for a
    # session. Seeded by the number of scores before, so that each batch has its own, and the same
    # ones if it is repeated.
    rng = np.random.default_rng([seed, monitor.requests])
    live = LiveRows(
        logp_TC=traffic.logp_TC,
        error_TA=np.stack(errors, axis=1) if errors else np.zeros((rows, 0), dtype=bool),
        session_T=traffic.session_T,
        at_T=traffic.at_T,
        draw_T=rng.random(rows),
    )
    return observe_traffic(monitor, live, rng, ended=ended)


def after_labels(
    monitor: Monitor,
    policy: Policy,
    table: ScoreTable,
    labels: Mapping[str, FeedbackRow],
    session_by_id: Mapping[str, str],
) -> tuple[Monitor, int]:
    """Count labels of scored requests, in the order of the table. Also how many of them no promise
    speaks of.

    A promise about a slice counts the labels that say each facet by which the slice is defined.
    """
    ids = tuple(i for i in table.ids if i in labels)
    if not ids:
        return monitor, 0
    label_N = np.array([policy.taxonomy.column(labels[i].label) for i in ids], dtype=np.int64)
    rows = LabelledScores(
        table=table.select(ids), label_N=label_N, traits=_traits([labels[i] for i in ids], label_N)
    )
    session_N = [session_by_id.get(i) for i in ids]
    spoken_N = np.zeros(len(ids), dtype=bool)
    for a in monitor.audits:
        if not a.of_traffic:
            error_N, among_N = _errors(policy, a, rows)
            own = [session_N[n] for n in np.flatnonzero(among_N).tolist()]
            monitor = observe_labels(monitor, a.risk, error_N[among_N], own)
            spoken_N |= among_N
    return monitor, int((~spoken_N).sum())


def _series(row: SeriesRow) -> Martingale:
    """A series from its row, also of older versions. Raises DataError on a damaged one."""
    if row.wealth is not None:
        wealth = Wealth(**dict(row.wealth))
    elif row.shares is not None and row.log_e is not None:
        wealth = martingale.wealth_of_jumper(row.shares, row.log_e)
    else:
        raise DataError(f"series {row.series!r} has no wealth", "start afresh")
    return Martingale(
        series=row.series,
        count_B=row.count_B,
        wealth=wealth,
        highest_log_e=row.highest_log_e,
        steps=row.steps,
        learns=row.learns,
    )


def _audit(row: AuditRow) -> Audit:
    """An audit from its row, also of older versions. Raises DemurError on a damaged one."""
    empty = Audit(goal=promised(stated_goal(row.risk, row.level)))
    wealth = (
        audit.wealth_of_counts(row.rate, row.level)
        if row.wealth is None
        else Wealth(**dict(row.wealth))
    )
    units = row.rate.of if row.units is None else row.units
    return replace(
        empty, rate=row.rate, units=units, wealth=wealth, highest_log_e=row.highest_log_e
    )


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


def _errors(policy: Policy, audit: Audit, rows: LabelledScores) -> tuple[Bools, Bools]:
    """(whether the policy errs, whether the promise is about the row) for each row."""
    # Sessions are told apart where units are counted, not here.
    try:
        board = grouped_by_policy(audit.goal, policy, replace(rows, group_N=None))
        (loss,) = losses_of([audit.goal], policy, board, 0)
    # None of these rows is of the promise's kind; or it speaks of stops, which no score tells.
    except DataError:
        none_N = np.zeros(len(rows.label_N), dtype=bool)
        return none_N, none_N
    decided = decide_many(policy, rows.table.logp_NC)
    error_N = loss.errors(decided.refuses_N, decided.held_N)
    return np.asarray(error_N, dtype=bool), loss.denominator(decided.refuses_N)
