"""watch: live scores, and labels of some of them -> whether the promises of a policy are still
supported.

1. Two kinds of evidence are counted: scores, beside those that the policy was calibrated on
   (drift), and errors on labelled requests, beside the promised level (audits).
2. Both are counted sequentially, as a test martingale and as an e-process: their alarms hold
   however often one looks (demur.stats.drift), so the command may be called batch after batch and
   stopped at any time.
3. The state lies in one file, under a lock. It names each score file by digest and each label by
   request, so that none is counted twice.
4. Servers count their own requests in a file of theirs: demur.stages.watch.live.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np

from demur.base.errors import ArtifactError, DataError, GoalError
from demur.base.files import digest_file
from demur.core.goals.promised import promised
from demur.core.policy import Policy
from demur.core.score import ScoreTable
from demur.core.taxonomy import Taxonomy
from demur.stages.watch.live import (
    LiveWatch,
    ScoredRequest,
    begin_watching,
    count_scores,
    live_path,
    refreshed,
    state_path,
)
from demur.stages.watch.state import after_labels, after_scores, monitor_of, reference_of, row_of
from demur.stats.drift.audit import Audit
from demur.stats.drift.compare import Shift, compare
from demur.stats.drift.monitor import Alarm, Monitor, PromiseState, check_promises, start_monitor
from demur.store.locks import locked
from demur.store.policies.policy_file import policy_digest, read_policy
from demur.store.results.monitor_file import (
    FeedbackRow,
    MonitorFile,
    ResetRow,
    read_feedback,
    read_live,
    read_monitor,
    write_live,
    write_monitor,
)
from demur.store.run import RunFolder
from demur.store.scores.tables import is_in_time, read_scores

__all__ = [
    "Alarm",
    "Config",
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
    "state_path",
    "unlabelled_promises",
]

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
    new_labels: int
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


@dataclass(frozen=True, kw_only=True, slots=True)
class _Batch:
    """One file of scores, its rows in the order in which they are tested."""

    table: ScoreTable
    digest: str
    in_time: bool  # else the order is random


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
    batches = [_batch(config, policy, file) for file in _files(config.scores)]
    table = _together(batches)
    reference_NC = reference_of(folder, policy, config.seed)
    # The comparison is one look at all rows given here, counted before or not; it has no state.
    shifts = compare(policy, reference_NC, table.logp_NC)
    fresh = start_monitor(policy, reference_NC)
    # Read, count and write under one lock: two calls at once must not lose each other's evidence.
    with locked(path):
        file = _opened(path, policy, fresh)
        monitor = monitor_of(file, fresh, path)
        new = [b for b in batches if b.digest not in file.batches]
        for b in new:
            monitor = after_scores(monitor, policy, b.table.logp_NC, config.seed)
        labels = _new_labels(config, file, table, policy.taxonomy)
        monitor = after_labels(monitor, policy, table, labels)
        permuted = {b.digest: config.seed for b in new if not b.in_time}
        changed = {
            **dict(row_of(monitor)),
            "batches": (*file.batches, *(b.digest for b in new)),
            "labelled": (*file.labelled, *labels),
            "permuted": {**file.permuted, **permuted},
        }
        write_monitor(path, file.model_copy(update=changed))
    return WatchResult(
        watched=check_promises(policy.promises, monitor, config.alpha),
        shifts=shifts,
        monitor=monitor,
        rows=len(table.ids),
        new_rows=sum(len(b.table.ids) for b in new),
        new_labels=len(labels),
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
    fresh = start_monitor(policy, reference_of(folder, policy))
    changed = []
    if path.exists():
        with locked(path):
            file = _opened(path, policy, fresh)
            row = _reset_row(policy, [monitor_of(file, fresh, path)], reason, now)
            # Forgotten batches and labels may be counted again, into the fresh monitor.
            empty = {**dict(row_of(fresh)), "batches": (), "labelled": (), "permuted": {}}
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


def _files(path: Path) -> list[Path]:
    """The score files of a path. Raises DataError on a folder that holds none."""
    if not path.is_dir():
        return [path]
    files = sorted(path.glob("*.parquet"))
    if not files:
        raise DataError(
            f"{path} holds no score file", "expected files named *.parquet, as a server writes them"
        )
    return files


def _batch(config: Config, policy: Policy, path: Path) -> _Batch:
    """One file of scores. Rows without an order in time are permuted: a sorted file would look like
    drift.
    """
    table, model = read_scores(path)
    policy.require_model(model)
    digest, in_time = digest_file(path), config.in_order or is_in_time(path)
    if not in_time:
        # Seeded by the file's own digest: the same order whenever and beside whichever files.
        of_file = int(digest.removeprefix("sha256:")[:16], 16)
        order_N = np.random.default_rng([config.seed, of_file]).permutation(len(table.ids))
        table = table.select(tuple(table.ids[n] for n in order_N.tolist()))
    return _Batch(table=table, digest=digest, in_time=in_time)


def _together(batches: Sequence[_Batch]) -> ScoreTable:
    """All rows. Raises DataError on a request that stands in two files."""
    ids = tuple(i for b in batches for i in b.table.ids)
    if len(set(ids)) < len(ids):
        twice = Counter(ids).most_common(1)[0][0]
        raise DataError(
            f"request {twice!r} stands in two score files",
            "cut traffic into files that do not overlap",
        )
    return ScoreTable(ids=ids, logp_NC=np.concatenate([b.table.logp_NC for b in batches]))


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
    return file


def _new_labels(
    config: Config, file: MonitorFile, table: ScoreTable, taxonomy: Taxonomy
) -> dict[str, FeedbackRow]:
    """Labels that have not been counted. Raises DataError on a label of a request that has no score
    among these.
    """
    if config.feedback is None:
        return {}
    counted, scored = set(file.labelled), set(table.ids)
    labels = {
        i: row for i, row in read_feedback(config.feedback, taxonomy).items() if i not in counted
    }
    unknown = [i for i in labels if i not in scored]
    if unknown:
        raise DataError(
            f"{config.feedback}: {len(unknown)} requests have no score in {config.scores}, first "
            f"{unknown[0]!r}",
            "give labels together with the scores of the same requests",
        )
    return labels
