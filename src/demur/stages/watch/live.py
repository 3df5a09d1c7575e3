"""Live monitors of a policy under watch by servers: one state file a policy, shared by all
processes, with a monitor per tenant.

1. A server counts its scores under the file's lock: it reads the evidence of all servers, adds its
   own, and writes the sum back. So two servers on one run make one state, and no alarm is
   overwritten.
2. A tenant's requests are evidence on the promises to that tenant, and to nobody else.
3. A score is appended to the server's journal before it is counted. If the process is killed, the
   next one that begins counts the rest of its journal; the state file has the number of rows of
   each journal that are counted already.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from demur.base.arrays import Floats
from demur.base.errors import ArtifactError, PolicyError, ScoreError
from demur.core.policy import Policy
from demur.core.score import check_scores
from demur.stages.watch.state import (
    Traffic,
    after_scores,
    calibrate_rows,
    monitor_of,
    reference_of,
    row_of,
)
from demur.stats.drift.monitor import (
    Monitor,
    PromiseState,
    check_promises,
    merge_monitors,
    start_monitor,
    with_status,
)
from demur.store.locks import Abandoned, abandoned_journals, locked
from demur.store.policies.policy_file import policy_digest
from demur.store.results.monitor_file import UNKNOWN, LiveFile, read_live, read_monitor, write_live
from demur.store.run import RunFolder
from demur.store.scores.rewritten import decided_scores

Stamp = tuple[int, int]  # of a file: time of its last writing in ns, inode


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ScoredRequest:
    """One decided request, for the monitor."""

    tenant: str
    logp_C: Floats
    session: str | None = None  # key of its session: demur.stages.watch.session_key
    at_s: float = 0.0  # when it came, in seconds since 1970
    journal: str | None = None  # the name of the journal that holds it


@dataclass(frozen=True, kw_only=True, slots=True)
class LiveWatch:
    """The monitors of a policy between two batches of live scores, as one server holds them."""

    policy: Policy
    folder: RunFolder  # the run that holds the calibration scores
    fresh: Monitor  # before any live score
    monitors: Mapping[str, Monitor] = field(default_factory=dict)  # by tenant
    resets: int = 0  # how often an operator cleared the evidence
    live_at: Stamp | None = None  # the writing of the live state that this holds; None: no file yet
    # the monitor of `demur watch` for the same policy: labels, and requests of its own
    command_monitor: Monitor | None = None
    command_at: Stamp | None = None

    def watched(self, tenant: str) -> tuple[PromiseState, ...]:
        """The policy's promises after the requests of one tenant and the evidence of `demur
        watch`.
        """
        # Requests whose tenant is unknown count against the promises to every tenant.
        mine = [
            self.monitors[name]
            for name in dict.fromkeys((tenant, UNKNOWN))
            if name in self.monitors
        ]
        mine += [self.command_monitor] if self.command_monitor is not None else []
        # Per monitor a view of all promises, in the same order; `fresh` makes sure that there is
        # one. Alarms of any monitor count. A slice is unlabelled only if it is in all of them.
        views = [check_promises(self.policy.promises, m) for m in (self.fresh, *mine)]
        return tuple(
            with_status(
                PromiseState(
                    promise=promise,
                    alarms=tuple(a for view in views for a in view[at].alarms),
                    drift=tuple(a for view in views for a in view[at].drift),
                    unlabelled=all(view[at].unlabelled for view in views),
                )
            )
            for at, promise in enumerate(self.policy.promises)
        )

    def alarms(self) -> dict[tuple[str, str, str], dict[str, str]]:
        """The log fields of all alarms and drift, by event, tenant and risk or test."""
        found: dict[tuple[str, str, str], dict[str, str]] = {}
        for tenant in sorted({*self.monitors, ""}):
            for state in self.watched(tenant):
                risk = state.promise.risk
                for a in state.alarms:
                    fields = {"risk": risk, "reason": a.text, "tenant": tenant}
                    found["promise no longer supported", tenant, risk] = fields
                for a in state.drift:
                    found["drift seen", tenant, a.about] = {"reason": a.text, "tenant": tenant}
        return found

    @property
    def steps(self) -> int:
        """The number of live scores counted, of all tenants."""
        return sum(m.requests for m in self.monitors.values())


def live_path(folder: RunFolder, policy: Policy) -> Path:
    """The state file of servers for one policy: <run>/watch/live-<its digest>.json"""
    return folder.root / "watch" / f"live-{policy_digest(policy).removeprefix('sha256:')[:12]}.json"


def state_path(folder: RunFolder) -> Path:
    """The state file of `demur watch` unless the caller names another: <run>/watch/state.json

    For a policy that the run keeps beside its own: <run>/watch/state-NAME.json
    """
    own = f"-{folder.policy_name}" if folder.policy_name else ""
    return folder.root / "watch" / f"state{own}.json"


def begin_watching(runs: Sequence[RunFolder], policy: Policy) -> LiveWatch | None:
    """Start monitors of a policy, as its live state left them, in the first run with calibration
    scores of its model.

    Rows that killed servers left uncounted are counted now. None where nothing is promised or no
    run has such scores. Raises ArtifactError on damaged files.
    """
    if not any(p.status == "certified" for p in policy.promises):
        return None
    for run in runs:
        folder = run.named(policy.name) if policy.name in run.policy_names else run
        if not decided_scores(folder, "calibrate", policy.fingerprint).exists():
            continue
        try:
            reference_NC = reference_of(calibrate_rows(folder, policy))
        except PolicyError:  # the scores are another model's: try the next run
            continue
        live = LiveWatch(policy=policy, folder=folder, fresh=start_monitor(policy, reference_NC))
        return refreshed(_with_journals(live))
    return None


def refreshed(live: LiveWatch) -> LiveWatch:
    """Add the evidence that other servers and `demur watch` have written since. States of other
    policies do not count.

    Raises ArtifactError if a state is damaged.
    """
    # Stamps are taken before reading: a file written meanwhile is read again next time.
    path = live_path(live.folder, live.policy)
    if (written := _stamp(path)) != live.live_at:
        live = replace(_with_file(live, _read(path, live.policy)), live_at=written)
    path = state_path(live.folder)
    if (written := _stamp(path)) == live.command_at:
        return live
    file = read_monitor(path) if written else None
    if file is None or file.policy != policy_digest(live.policy):
        return replace(live, command_at=written)
    return replace(live, command_monitor=monitor_of(file, live.fresh, path), command_at=written)


def count_scores(live: LiveWatch, rows: Sequence[ScoredRequest]) -> LiveWatch:
    """Count live scores, in order, and write the state file: all of them are counted, or none.

    Raises ScoreError on bad scores, ArtifactError where the state cannot be read or written.
    """
    path = live_path(live.folder, live.policy)
    with locked(path):
        file = _read(path, live.policy)
        live = _counted(_with_file(live, file), rows)
        _write(path, live, file, _journals(file, rows))
        return replace(live, live_at=_stamp(path))


def _with_journals(live: LiveWatch) -> LiveWatch:
    """Count the rest of the journals of dead processes, and remove these journals."""
    path = live_path(live.folder, live.policy)
    if not path.parent.is_dir():
        return live
    with locked(path):
        left = abandoned_journals(path)
        if not left:
            return live
        file = _read(path, live.policy)
        counted = file.journals if file else {}
        rows = [
            row
            for journal in left
            for row in _uncounted(journal, counted.get(journal.name, 0), live)
        ]
        live = _counted(_with_file(live, file), rows)
        # State first, journals last: killed in between, this process leaves rows that are counted
        # twice, but none that is lost.
        _write(
            path,
            live,
            file,
            {n: c for n, c in counted.items() if n not in {j.name for j in left}},
        )
        for journal in left:
            journal.path.unlink(missing_ok=True)
    return live


def _uncounted(journal: Abandoned, counted: int, live: LiveWatch) -> list[ScoredRequest]:
    """The rows of a journal that no state has counted. The first invalid row ends the journal."""
    found = []
    for row in journal.rows[counted:]:
        tenant, logp = (
            (row.get("tenant"), row.get("logp")) if isinstance(row, dict) else (None, None)
        )
        if not isinstance(tenant, str) or not _are_scores(logp, len(live.policy.taxonomy.tokens)):
            break
        session, at_s = row.get("session"), row.get("at", 0.0)
        found.append(
            ScoredRequest(
                tenant=tenant,
                logp_C=np.array(logp, dtype=np.float32),
                session=session if isinstance(session, str) else None,
                at_s=float(at_s) if isinstance(at_s, float | int) else 0.0,
            )
        )
    return found


def _are_scores(value: Any, columns: int) -> bool:
    """Whether a value from a journal is one row of valid scores."""
    if (
        not isinstance(value, list)
        or len(value) != columns
        or not all(isinstance(v, float | int) for v in value)
    ):
        return False
    try:
        check_scores(np.array([value], dtype=np.float32))
    except ScoreError:
        return False
    return True


def _counted(live: LiveWatch, rows: Sequence[ScoredRequest]) -> LiveWatch:
    """The monitors after these rows, each in its tenant's; the order within a tenant is kept."""
    by_tenant: dict[str, list[ScoredRequest]] = {}
    for row in rows:
        by_tenant.setdefault(row.tenant, []).append(row)
    monitors = dict(live.monitors)
    for tenant, own in by_tenant.items():
        traffic = Traffic(
            logp_TC=np.stack([row.logp_C for row in own]),
            session_T=[row.session for row in own],
            at_T=[row.at_s for row in own],
        )
        monitors[tenant] = after_scores(monitors.get(tenant, live.fresh), live.policy, traffic)
    return replace(live, monitors=monitors)


def _journals(file: LiveFile | None, rows: Sequence[ScoredRequest]) -> dict[str, int]:
    """How many rows of each journal are counted once these are, by name of the journal."""
    counted = dict(file.journals) if file else {}
    for row in rows:
        if row.journal is not None:
            counted[row.journal] = counted.get(row.journal, 0) + 1
    return counted


def _read(path: Path, policy: Policy) -> LiveFile | None:
    """The live state, if there is one. Raises ArtifactError if it is of another policy."""
    file = read_live(path)
    digest = policy_digest(policy)
    if file is not None and file.policy != digest:
        raise ArtifactError(
            f"{path} watches another policy than {policy.name!r}: {file.policy[:19]}..., expected "
            f"{digest[:19]}...",
            "put it away: a policy is watched afresh",
        )
    return file


def _with_file(live: LiveWatch, file: LiveFile | None) -> LiveWatch:
    """Add the evidence of the state file to the monitors. Without a file, or with an older one, the
    evidence here stays.

    Only a reset clears evidence: then the monitors are those of the file.
    """
    if file is None:
        return live
    path = live_path(live.folder, live.policy)
    theirs = {tenant: monitor_of(row, live.fresh, path) for tenant, row in file.tenants.items()}
    if len(file.resets) > live.resets:
        return replace(live, monitors=theirs, resets=len(file.resets))
    # File and memory have the same beginning: joined takes the later state, it does not add them.
    both = dict(theirs)
    for tenant, monitor in live.monitors.items():
        both[tenant] = merge_monitors(theirs[tenant], monitor) if tenant in theirs else monitor
    return replace(live, monitors=both)


def _write(path: Path, live: LiveWatch, file: LiveFile | None, journals: dict[str, int]) -> None:
    tenants = {tenant: row_of(monitor) for tenant, monitor in live.monitors.items()}
    resets = file.resets if file else ()
    write_live(
        path,
        LiveFile(
            policy=policy_digest(live.policy), tenants=tenants, resets=resets, journals=journals
        ),
    )


def _stamp(path: Path) -> Stamp | None:
    """A stamp that tells one writing of a file from the next: every writing makes a new inode, also
    within a tick of the clock. None if there is no file.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_mtime_ns, status.st_ino
