"""Promise monitors: whether live scores still support the promises of the policies in force.

1. Each decided request adds its score to the pending scores of its policy, and to a journal file,
   so that a killed server loses only scores of its last instant (demur.store.locks).
2. A full batch, or whatever is pending after COUNTED_S, is counted by demur.stages.watch in a
   thread: it updates the state file and finds alarms and drift.
3. Answers carry the promise status that this gives for their policy and tenant.
4. While the state file cannot be read or written, or counting hangs, the status is "certified, not
   watched".
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from time import monotonic

from demur.base.errors import DemurError, ScoreError
from demur.core.policy import Policy
from demur.server.monitoring.log import log_crash, log_event
from demur.server.monitoring.metrics import Metrics
from demur.server.responses import Promises
from demur.stages.watch.live import (
    LiveWatch,
    ScoredRequest,
    begin_watching,
    count_scores,
    live_path,
    refreshed,
)
from demur.store.locks import Journal
from demur.store.policies.folder import PolicySet
from demur.store.run import RunFolder

CERTIFIED: Promises = "certified"
DRIFTED: Promises = "certified, drift seen"
UNWATCHED: Promises = "certified, not watched"
LOST: Promises = "no longer supported"
UNPROVEN: Promises = "not certified"
NO_SCORES = "no watched run has calibration scores of its model"
COUNTED_S = 1.0  # after which a score is counted, if no full batch came before
AGAIN_S = 5.0  # between two attempts to count where the state cannot be written
HANGS_S = 30.0  # for which a score may be pending before its policy counts as not watched
# scores of one policy; further ones are lost to the monitor, and counted as lost
MOST_WAITING = 4096


@dataclass(slots=True)
class _PendingScores:
    """Scores of one policy that are not counted yet."""

    rows: list[ScoredRequest] = field(default_factory=list)
    since_s: float | None = None  # when the first of them came
    timer: asyncio.TimerHandle | None = None
    journal: Journal | None = None  # None: it could not be opened, or failed
    error: str | None = None  # why the last batch could not be counted
    counting: bool = False  # a batch is being counted


class PromiseMonitors:
    """Monitors of the policies in force, by policy digest. Belongs to the event loop.

    runs: folders whose calibration scores live scores are compared with. A policy with certified
    promises for which none of them has scores is not watched, and answers say so. rows: of a full
    batch. The constructor raises ArtifactError for damaged files.
    """

    def __init__(
        self, runs: Sequence[RunFolder], policies: PolicySet, metrics: Metrics, rows: int
    ) -> None:
        self._runs = tuple(runs)
        self._watches: dict[str, LiveWatch] = {}
        self._pending: dict[str, _PendingScores] = {}
        self._opened: dict[str, _PendingScores] = {}  # of policies whose watch begins
        # cache of `promise_status` by digest and tenant; keeps LOST of policies no longer in force
        self._status_by_key: dict[tuple[str, str], Promises] = {}
        self._unwatched: dict[str, str] = {}  # policies that cannot be watched, and why
        self._metrics = metrics
        self._rows = rows
        self._lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        # One thread: journals are written in order, and a disk that hangs holds up no request.
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="demur-journal")
        found = self._read_watches(_policies_to_watch(policies))
        for outcome in found.values():
            if isinstance(outcome, DemurError):
                raise outcome
        self._apply(_policies_to_watch(policies), found)

    async def update_policies(self, policies: PolicySet) -> None:
        """Watch the policies that are in force now, and reread the state that others also write."""
        now = _policies_to_watch(policies)
        # The lock keeps batches from being counted while the watches they belong to are replaced.
        async with self._lock:
            for digest, pending in self._pending.items():
                if digest not in now or pending.error is not None:
                    await self._count(digest)
                if digest not in now:
                    self._end_journal(pending)
            self._apply(now, await asyncio.to_thread(self._read_watches, now))

    def record_score(self, digest: str, scored: ScoredRequest) -> None:
        """Add the score of a decided request. Never blocks; ignores a policy that is not watched.

        digest: of the stored policy.
        """
        pending = self._pending.get(digest)
        if pending is None:
            return
        if len(pending.rows) >= MOST_WAITING:
            self._metrics.count_lost_scores(1)
            return
        pending.rows.append(self._journaled(digest, pending, scored))
        pending.since_s = pending.since_s or monotonic()
        self._schedule_count(digest, pending)

    def _schedule_count(self, digest: str, pending: _PendingScores) -> None:
        """Count the pending scores now if they are a full batch, else after a while."""
        if len(pending.rows) >= self._rows and pending.error is None and not pending.counting:
            self._start_count(digest)
        elif pending.rows and pending.timer is None:
            after_s = COUNTED_S if pending.error is None else AGAIN_S
            pending.timer = asyncio.get_running_loop().call_later(
                after_s, self._start_count, digest
            )

    async def flush(self) -> None:
        """Count all pending scores, before the server ends."""
        async with self._lock:
            for digest, pending in self._pending.items():
                if pending.timer is not None:
                    pending.timer.cancel()
                await self._count(digest)
                self._end_journal(pending)
        self._writer.shutdown(wait=False)

    def promise_status(
        self, policy: Policy, digest: str, tenant: str, *, outside: bool
    ) -> Promises:
        """Return the status of a policy's promises, for an answer to a tenant.

        outside: the request is outside what was promised: it overrides thresholds, was refused for
        declared text, or is synthetic. The values:

        "void": the request is outside.
        "none": the policy has no certified promise.
        "not certified": the file claims one without bearing it out (demur.store.policies.trust).
        "no longer supported": live scores or labels have raised an alarm about one.
        "certified, drift seen": the tenant's scores no longer look like the calibration scores.
        "certified, not watched": the policy is not watched, or a promise is about a slice of which
        there is no label yet, so that a violation would not be noticed.
        "certified": none of these.
        """
        if outside:
            return "void"
        statuses = {p.status for p in policy.promises}
        # before the cache: files of one digest may differ in their signatures
        if UNPROVEN in statuses:
            return UNPROVEN
        if CERTIFIED not in statuses:
            return LOST if LOST in statuses else "none"
        watch = self._watches.get(digest)
        if watch is None:
            return LOST if self._status_by_key.get((digest, tenant)) == LOST else UNWATCHED
        status = self._status_by_key.get((digest, tenant))
        if status is None:
            status = self._status_by_key[digest, tenant] = _status_for(watch, tenant)
        # an alarm stands, whether or not more scores can be counted
        return UNWATCHED if status != LOST and _is_stalled(self._pending[digest]) else status

    def _journaled(self, digest: str, pending: _PendingScores, row: ScoredRequest) -> ScoredRequest:
        """Submit a row to the journal's thread; return it with the journal's name.

        Counting a row that names its journal marks it there as counted. Without a journal a killed
        server loses its pending rows.
        """
        journal = pending.journal
        if journal is None:
            return row
        value = {
            "tenant": row.tenant,
            "logp": [float(v) for v in row.logp_C],
            "session": row.session,
            "at": row.at_s,
        }
        future = self._writer.submit(journal.append, value)

        # in the writer's thread: stop writing to a journal that cannot be written
        def drop_journal_if_failed(done: Future[None]) -> None:
            if done.exception() and pending.journal is journal:
                pending.journal = None
                path = str(journal.path)
                log_event(logging.ERROR, "journal lost", policy_hash=digest, journal=path)

        future.add_done_callback(drop_journal_if_failed)
        return replace(row, journal=journal.name)

    def _end_journal(self, pending: _PendingScores) -> None:
        """Close the journal, and remove it if all its rows are counted.

        One with rows left is counted by the next server that watches the policy.
        """
        journal, pending.journal = pending.journal, None
        if journal is not None:
            all_counted = not pending.rows
            self._writer.submit(lambda: journal.end(remove=all_counted))

    def _read_watches(
        self, policies: Mapping[str, Policy]
    ) -> dict[str, LiveWatch | DemurError | None]:
        """Read the state of each policy's watch; None: no run has scores for it. Blocks."""
        found: dict[str, LiveWatch | DemurError | None] = {}
        for digest, policy in policies.items():
            before = self._watches.get(digest)
            if self._unwatched.get(digest) == NO_SCORES:
                # Looked for once only. Unreadable files are tried again: another calibration may be
                # writing them.
                continue
            try:
                watch = refreshed(before) if before else begin_watching(self._runs, policy)
                found[digest] = watch
                if watch is not None and digest not in self._pending:
                    self._opened[digest] = _open_pending(watch)
            except DemurError as e:
                found[digest] = e
        return found

    def _apply(
        self, policies: Mapping[str, Policy], found: Mapping[str, LiveWatch | DemurError | None]
    ) -> None:
        """Put the states that were read in force, and log and show what has changed.

        A state that could not be read keeps the one before, with an error: its policy counts as not
        watched.
        """
        old, self._watches = self._watches, {}
        for digest, outcome in found.items():
            watch = outcome if isinstance(outcome, LiveWatch) else old.get(digest)
            if watch is not None:
                self._watches[digest] = watch
        # policies watched before keep their pending scores; new ones get those just opened
        pending_by_digest: dict[str, _PendingScores] = {}
        for digest in self._watches:
            pending = self._pending.get(digest) or self._opened.pop(digest, _PendingScores())
            pending_by_digest[digest] = pending
        self._pending = pending_by_digest
        for digest, pending in self._pending.items():
            if isinstance(outcome := found.get(digest), DemurError):
                pending.error = outcome.message
        self._log_unwatched(policies, found)
        # A lost promise stays lost if its policy comes back; any other status is found anew. Gauges
        # are cleared, since single labels of a policy that is gone cannot be listed.
        if gone := old.keys() - self._watches.keys():
            kept: dict[tuple[str, str], Promises] = {}
            for key, status in self._status_by_key.items():
                if key[0] not in gone or status == LOST:
                    kept[key] = status
            self._status_by_key = kept
            self._metrics.clear_promise_gauges()
        for digest, watch in self._watches.items():
            before = old.get(digest)
            if watch is not before:
                _log_new_alarms(before, watch)
            if gone or watch is not before:
                self._publish(digest)

    def _log_unwatched(
        self, policies: Mapping[str, Policy], found: Mapping[str, LiveWatch | DemurError | None]
    ) -> None:
        """Log which policies are not watched, and why; a reason that stays is logged once."""
        # those that were not looked for again
        before = {
            digest: why
            for digest, why in self._unwatched.items()
            if digest in policies and digest not in found
        }
        reasons = {}
        for digest, outcome in found.items():
            if isinstance(outcome, DemurError):
                reasons[digest] = f"{outcome.message}; {outcome.hint}"
            elif outcome is None:
                reasons[digest] = NO_SCORES
        for digest, why in reasons.items():
            if self._unwatched.get(digest) != why:
                name = policies[digest].name
                log_event(
                    logging.WARNING,
                    "promises not watched",
                    policy=name,
                    policy_hash=digest,
                    reason=why,
                )
        self._unwatched = before | reasons

    def _start_count(self, digest: str) -> None:
        """Count a policy's pending scores in a task."""

        async def count() -> None:
            async with self._lock:
                await self._count(digest)

        task = asyncio.get_running_loop().create_task(count())
        # the loop keeps weak references only: without this one the task might be collected
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _count(self, digest: str) -> None:
        """Count a policy's pending scores; the caller holds the lock. A failure leaves them."""
        pending = self._pending.get(digest)
        # after an error it is tried without rows as well, to find out whether the error has passed
        if pending is None or not (pending.rows or pending.error):
            return
        if pending.timer is not None:
            pending.timer.cancel()
            pending.timer = None
        # a copy: requests go on adding rows while the thread counts these
        before, batch = self._watches[digest], list(pending.rows)
        pending.counting = True
        try:
            after = await asyncio.to_thread(count_scores, before, batch)
            if pending.journal is None:  # the disk can be written: try a new one
                pending.journal = (await asyncio.to_thread(_open_pending, after)).journal
        except ScoreError as e:  # no later attempt could count them
            log_event(
                logging.ERROR,
                "scores not watched",
                policy_hash=digest,
                reason=e.message,
                hint=e.hint,
            )
            self._metrics.count_lost_scores(len(batch))
            del pending.rows[: len(batch)]
            return
        # Any other error, a bug included: answers must not go on claiming a watched promise.
        except Exception as e:  # noqa: BLE001
            self._report_error(digest, pending, e)
            return
        finally:
            pending.counting = False
        pending.error = None
        del pending.rows[: len(batch)]
        pending.since_s = monotonic() if pending.rows else None
        self._schedule_count(digest, pending)
        _log_new_alarms(before, after)
        self._watches[digest] = after
        self._publish(digest)

    def _report_error(self, digest: str, pending: _PendingScores, error: Exception) -> None:
        """Mark a policy as not watched because counting failed, log it, and try again later."""
        reason = error.message if isinstance(error, DemurError) else type(error).__name__
        if not isinstance(error, DemurError):
            log_crash(error, task="watch")
        if pending.error != reason:
            log_event(
                logging.ERROR,
                "scores not watched",
                policy_hash=digest,
                reason=reason,
                waiting=len(pending.rows),
            )
        pending.error = reason
        self._metrics.set_watch_blind(self._watches[digest].policy.name, digest, blind=True)
        self._schedule_count(digest, pending)

    def _publish(self, digest: str) -> None:
        """Update the metrics of one policy, and drop its cached statuses."""
        watch = self._watches[digest]
        self._status_by_key = {
            key: status for key, status in self._status_by_key.items() if key[0] != digest
        }
        tenants = sorted({*watch.monitors, ""})  # "": all tenants together
        views = {tenant: watch.watched(tenant) for tenant in tenants}
        # by risk: a promise is supported if it is in the view of every tenant
        supported: dict[str, bool] = {}
        for watched in views.values():
            for w in watched:
                if w.promise.status in (CERTIFIED, LOST):
                    supported[w.promise.risk] = (
                        supported.get(w.promise.risk, True) and w.promise.status == CERTIFIED
                    )
        self._metrics.set_promise_status(watch.policy.name, digest, supported, watch.steps)
        for tenant, watched in views.items():
            lost = {
                w.promise.risk: bool(w.alarms)
                for w in watched
                if w.promise.status in (CERTIFIED, LOST)
            }
            self._metrics.set_tenant_status(
                (watch.policy.name, digest, tenant), lost, drifted=any(w.drift for w in watched)
            )
        self._metrics.set_watch_blind(
            watch.policy.name, digest, blind=_is_stalled(self._pending[digest])
        )


def _is_stalled(pending: _PendingScores) -> bool:
    """Whether scores are not being counted: the last batch failed, or the next one hangs."""
    hangs = pending.since_s is not None and monotonic() - pending.since_s > HANGS_S
    return pending.error is not None or hangs


def _open_pending(watch: LiveWatch) -> _PendingScores:
    """Return empty pending scores with a new journal, or with the error if it cannot be written."""
    try:
        return _PendingScores(journal=Journal(live_path(watch.folder, watch.policy)))
    except DemurError as e:
        log_event(
            logging.ERROR, "no journal", policy=watch.policy.name, reason=e.message, hint=e.hint
        )
        return _PendingScores(error=e.message)


def _status_for(watch: LiveWatch, tenant: str) -> Promises:
    """Return the promise status for one tenant; the worst of all promises counts."""
    watched = watch.watched(tenant)
    if any(w.promise.status == LOST for w in watched):
        return LOST
    certified = [w for w in watched if w.promise.status == CERTIFIED]
    if any(w.drift for w in certified):
        return DRIFTED
    return UNWATCHED if any(w.unlabelled for w in certified) else CERTIFIED


def _policies_to_watch(policies: PolicySet) -> dict[str, Policy]:
    """Return the policies with a certified promise, by digest."""
    found: dict[str, Policy] = {}
    for live in policies.policies.values():
        if any(p.status == CERTIFIED for p in live.policy.promises):
            found[live.digest] = live.policy
    return found


def _log_new_alarms(before: LiveWatch | None, after: LiveWatch) -> None:
    """Log alarms and drift that the state before did not have."""
    known = before.alarms() if before else {}
    for key, fields in after.alarms().items():
        if key not in known:
            log_event(logging.WARNING, key[0], policy=after.policy.name, **fields)
