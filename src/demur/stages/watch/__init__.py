"""watch: live scores, and labels of some of them -> whether the promises of a policy are still
supported.

1. Two kinds of evidence are counted: scores, beside those that the policy was calibrated on
   (drift), and errors on labelled requests, beside the promised level (audits).
2. Both are counted sequentially, as a test martingale and as an e-process: their alarms hold
   however often one looks (demur.stats.drift), so the command may be called batch after batch and
   stopped at any time.
3. The state lies in one file, under a lock. It names each score file by digest, and each label by
   score file and request, so that none is counted twice and none is taken for another's.
4. A session is one unit of evidence, of scores and of labels: demur.stats.drift.sessions.
5. Servers count their own requests in a file of theirs: demur.stages.watch.live.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np

from demur.base.errors import ArtifactError, DataError, GoalError
from demur.core.goals.promised import promised
from demur.core.policy import Policy
from demur.stages.watch.batches import (
    Batch,
    read_batch,
    score_files,
    together,
    units_of_batches,
)
from demur.stages.watch.labels import LabelCount, count_labels
from demur.stages.watch.live import (
    LiveWatch,
    ScoredRequest,
    begin_watching,
    count_scores,
    live_path,
    refreshed,
    state_path,
)
from demur.stages.watch.state import (
    Traffic,
    after_scores,
    calibrate_rows,
    monitor_of,
    reference_of,
    row_of,
    session_key,
)
from demur.stats.drift.audit import Audit
from demur.stats.drift.compare import Shift, compare
from demur.stats.drift.monitor import Alarm, Monitor, PromiseState, check_promises, start_monitor
from demur.stats.units import RowUnits
from demur.store.locks import locked
from demur.store.policies.policy_file import policy_digest, read_policy
from demur.store.results.monitor_file import (
    MonitorFile,
    ResetRow,
    read_live,
    read_monitor,
    write_live,
    write_monitor,
)
from demur.store.run import RunFolder

__all__ = [
    "Alarm",
    "Config",
    "LabelCount",
    "LiveWatch",
    "PromiseState",
    "ScoredRequest",
    "Shift",
    "WatchResult",
    "begin_watching",
    "count_scores",
    "live_path",
    "refreshed",
    "reset",
    "run",
    "session_key",
    "state_path",
    "unlabelled_promises",
]

MOST_SESSIONS = 4096  # whose scores were counted, that a state remembers
SUPPORTED, DRIFTED, UNWATCHED = "supported", "drift seen", "certified, not watched"


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """The files to count, and how. Raises GoalError on an alpha outside (0, 1)."""

    # of live requests: a file, or a folder of files, which are read in the order of their names
    scores: Path
    # JSONL of FeedbackRow (demur.store.results.monitor_file): labels of a random sample of them
    feedback: Path | None = None
    state: Path | None = None  # None: demur.stages.watch.live.state_path
    # rows are in the order of the requests, though the file has no mark of it
    in_order: bool = False
    alpha: float = 0.05  # P(any false alarm) over the monitor's whole life
    # of the uniform numbers that break ties, and of the order of rows that have none in time
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.0 < self.alpha < 1.0:
            raise GoalError(f"watch.alpha = {self.alpha} is not in (0, 1)", "0.05 is usual")


@dataclass(frozen=True, kw_only=True, slots=True)
class WatchResult:
    """The promises after these scores and labels."""

    watched: tuple[PromiseState, ...]  # the policy's promises, in order
    # these scores beside the calibration scores; one look, p-values adjusted together
    shifts: tuple[Shift, ...]
    monitor: Monitor  # with these scores and labels
    rows: int  # scores looked at
    new_rows: int  # of them counted now: all of a file, or none if the file was counted before
    labels: LabelCount
    sessions: int  # of the scores looked at
    alone: int  # scores that name no session: each is taken to be independent of the others
    left_out: int  # new scores of sessions that were counted before
    permuted: int  # files whose rows have no order in time, and were put into a random one
    state: Path

    @property
    def supported(self) -> bool:
        """Whether no promise is lost. True is no proof that the promises hold."""
        return not any(w.alarms or w.promise.status == "not certified" for w in self.watched)

    @property
    def drifted(self) -> bool:
        """Whether live scores no longer look like the calibration scores: the promises' assumption
        is in doubt.
        """
        return any(w.drift for w in self.watched)


def promise_status(watched: PromiseState) -> str:
    """The status to show: "supported", "drift seen", "no longer supported", "certified, not
    watched" (no label of its slice yet), or the reason why there was nothing to support:
    "measured", ...
    """
    if watched.promise.status != "certified":
        return watched.promise.status
    if watched.drift:
        return DRIFTED
    return UNWATCHED if watched.unlabelled else SUPPORTED


def unlabelled_promises(folder: RunFolder) -> tuple[str, ...]:
    """The risks of the certified promises about slices of which no request is labelled yet. Writes
    nothing.

    Raises ArtifactError on a damaged state.
    """
    policy, path = read_policy(folder.policy), state_path(folder)
    audits = [
        Audit(goal=promised(p.goal)) for p in policy.promises if p.status == "certified" and p.level
    ]
    file = read_monitor(path) if path.exists() else None
    # Labels of another policy's requests are no evidence about this one.
    own = file is not None and file.policy == policy_digest(policy)
    labelled = {a.risk for a in file.audits if a.rate.of} if file is not None and own else set()
    return tuple(a.risk for a in audits if a.sliced and a.risk not in labelled)


def run(config: Config, folder: RunFolder) -> WatchResult:
    """Count files of scores, and labels of requests in them, as evidence on the promises of the
    run's policy.

    Raises PolicyError if the scores are another model's, ArtifactError if the state is damaged or
    of another policy, DataError on a label of an unknown request or without a live row,
    TaxonomyError on an unknown label.
    """
    folder.require("calibrate")
    policy, path = read_policy(folder.policy), config.state or state_path(folder)
    batches = [
        read_batch(file, policy, config.seed, in_order=config.in_order)
        for file in score_files(config.scores)
    ]
    table = together(batches)
    rows = calibrate_rows(folder, policy)
    # The comparison is one look at all rows given here, counted before or not; it has no state.
    own = RowUnits.of(len(rows.label_N), rows.group_N, rows.count_N)
    units = (own, units_of_batches(batches))
    shifts = compare(policy, rows.table.logp_NC, table.logp_NC, units, config.seed)
    fresh = start_monitor(policy, reference_of(rows, config.seed))
    # Read, count and write under one lock: two calls at once must not lose each other's evidence.
    with locked(path):
        file = _opened(path, policy, fresh)
        monitor = monitor_of(file, fresh, path)
        new = [b for b in batches if b.digest not in file.batches]
        monitor, file, left_out = _with_scores(monitor, file, policy, new, config.seed)
        monitor, file, labels = count_labels(config.feedback, monitor, file, policy, batches)
        permuted = {b.digest: config.seed for b in new if not b.in_time}
        changed = {**dict(row_of(monitor)), "permuted": {**file.permuted, **permuted}}
        write_monitor(path, file.model_copy(update=changed))
    sessions = [s for b in batches for s in b.session_N]
    return WatchResult(
        watched=check_promises(policy.promises, monitor, config.alpha),
        shifts=shifts,
        monitor=monitor,
        rows=len(table.ids),
        new_rows=sum(len(b.table.ids) for b in new),
        labels=labels,
        sessions=len({s for s in sessions if s is not None}),
        alone=sessions.count(None),
        left_out=left_out,
        permuted=sum(not b.in_time for b in batches),
        state=path,
    )


def reset(folder: RunFolder, reason: str, now: datetime, state: Path | None = None) -> list[Path]:
    """Clear the evidence on the run's policy, of `demur watch` and of servers; returns the changed
    files. The record keeps the reason.

    A promise that was lost counts again: that is the operator's decision, and no evidence. Raises
    ArtifactError if there is no evidence yet, or a state is damaged.
    """
    if not reason.strip():
        raise DataError("a reset without a reason", "say why: it stays in the record")
    policy, path, live = read_policy(folder.policy), state or state_path(folder), None
    fresh = start_monitor(policy, reference_of(calibrate_rows(folder, policy)))
    changed = []
    if path.exists():
        with locked(path):
            file = _opened(path, policy, fresh)
            row = _reset_row(policy, [monitor_of(file, fresh, path)], reason, now)
            # Forgotten batches and labels may be counted again, into the fresh monitor.
            empty = {**dict(row_of(fresh)), "batches": (), "permuted": {}}
            empty |= {"labels": {}, "labelled": (), "sessions": (), "audited": ()}
            write_monitor(path, file.model_copy(update={**empty, "resets": (*file.resets, row)}))
        changed.append(path)
    path = live_path(folder, policy)
    if path.exists():
        with locked(path):
            live = read_live(path)
            assert live is not None  # nobody removes the file while we hold its lock
            monitors = [monitor_of(m, fresh, path) for m in live.tenants.values()]
            row = _reset_row(policy, monitors, reason, now)
            write_live(path, live.model_copy(update={"tenants": {}, "resets": (*live.resets, row)}))
        changed.append(path)
    if not changed:
        raise ArtifactError(
            f"nothing was seen of policy {policy.name!r} yet", "there is nothing to put away"
        )
    return changed


def _reset_row(policy: Policy, monitors: Iterable[Monitor], reason: str, now: datetime) -> ResetRow:
    """The record of a reset: the rows and the evidence against promises that it clears."""
    views = [(m, w) for m in monitors for w in check_promises(policy.promises, m)]
    against = dict.fromkeys(
        f"{w.promise.risk}: {a.text}" for _, w in views for a in (*w.alarms, *w.drift)
    )
    # `views` has a pair per promise: each monitor is to be counted once.
    seen_rows = sum(m.seen for m in {id(m): m for m, _ in views}.values())
    return ResetRow(
        at=now.isoformat(timespec="seconds"),
        reason=reason.strip(),
        seen=seen_rows,
        against=tuple(against),
    )


def _opened(path: Path, policy: Policy, fresh: Monitor) -> MonitorFile:
    """The state in a file, or a new state. Raises ArtifactError if it is of another policy."""
    digest = policy_digest(policy)
    if not path.exists():
        return MonitorFile(policy=digest, **dict(row_of(fresh)))
    file = read_monitor(path)
    if file.policy != digest:
        raise ArtifactError(
            f"{path} watches another policy than {policy.name!r}: {file.policy[:19]}..., expected "
            f"{digest[:19]}...",
            "a new policy is watched afresh: name another state file, or put this one away",
        )
    if file.labelled and file.labelled_in is None:
        return file.model_copy(update={"labelled_in": len(file.batches)})
    return file


def _with_scores(
    monitor: Monitor, file: MonitorFile, policy: Policy, new: Sequence[Batch], seed: int
) -> tuple[Monitor, MonitorFile, int]:
    """Count the scores of new batches, one unit a session; also how many were left out because
    their session was counted with earlier batches.
    """
    each = [b.table.logp_NC[np.array(b.row_T)] for b in new]
    logp_TC = np.concatenate(each) if new else np.zeros((0, 0), dtype=np.float32)
    session_T = [b.session_N[row] for b in new for row in b.row_T]
    counted = set(file.sessions)
    kept = [t for t, s in enumerate(session_T) if s not in counted]
    traffic = Traffic(
        logp_TC=logp_TC[kept],
        session_T=[session_T[t] for t in kept],
        at_T=[0.0] * len(kept),
    )
    # The files of one call hold whole sessions: no clock says when a session has ended.
    monitor = after_scores(monitor, policy, traffic, seed, ended=True)
    sessions = [*file.sessions, *dict.fromkeys(s for s in traffic.session_T if s is not None)]
    changed = {
        "batches": (*file.batches, *(b.digest for b in new)),
        "sessions": tuple(sessions[-MOST_SESSIONS:]),
    }
    return monitor, file.model_copy(update=changed), len(session_T) - len(kept)
