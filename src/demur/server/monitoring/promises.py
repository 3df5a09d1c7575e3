"""Whether live scores still support the promises: monitors for each policy in force, fed beside the
requests.

What an answer says of its promises is what the monitor can vouch for at that moment. A score waits
here until it is counted, at the latest a second later; meanwhile a journal holds it, so that a kill
loses only what was decided in the last instant (demur.store.locks). Where the state cannot be
written, as on a full disk, nothing is vouched for.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from time import monotonic

from demur.base.arrays import Floats
from demur.base.errors import DemurError, ScoreError
from demur.core.policy import Policy
from demur.server.monitoring.log import log_crash, log_event
from demur.server.monitoring.metrics import Metrics
from demur.server.responses import Promises
from demur.stages.watch import (
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
HANGS_S = 30.0  # for which a score may wait before nothing is vouched for
# scores of one policy; further ones are lost to the monitor, and counted as lost
MOST_WAITING = 4096


@dataclass(slots=True)
class _PendingScores:
    """Scores of one policy that are not counted yet."""

    rows: list[ScoredRequest] = field(default_factory=list)
    since_s: float | None = None  # when the first of them came
    timer: asyncio.TimerHandle | None = None
    journal: Journal | None = None
    blind: str | None = None  # why the last batch could not be counted
    counting: bool = False  # a batch is being counted


class PromiseMonitors:
    """The monitors of the policies in force, by digest.

    runs: folders whose calibration scores policies are watched from. A policy with certified
    promises that none of them has scores for is not watched, and answers say so. Raises, when made,
    ArtifactError on damaged files.
    """

    def __init__(
        self, runs: Sequence[RunFolder], policies: PolicySet, metrics: Metrics, rows: int
    ) -> None:
        self._runs = tuple(runs)
        self._standing_by_digest: dict[str, LiveWatch] = {}
        self._pending: dict[str, _PendingScores] = {}
        self._begun: dict[str, _PendingScores] = {}  # of policies that are about to be watched
        # what answers say, by policy and tenant; also of a lost one
        self._status_by_key: dict[tuple[str, str], Promises] = {}
        self._unwatched: dict[str, str] = {}  # policies that cannot be watched, and why
        self._metrics = metrics
        self._rows = rows
        self._lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        # One thread, so that journals are written in order, and a disk that hangs holds up no
        # request.
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="demur-journal")
        found = self._look(_policies_to_watch(policies))
        for outcome in found.values():
            if isinstance(outcome, DemurError):
                raise outcome
        self._settle(_policies_to_watch(policies), found)

    async def update_policies(self, policies: PolicySet) -> None:
        """Watch what is in force now, hear what others have seen of it, and let go of what is
        not.
        """
        now = _policies_to_watch(policies)
        async with self._lock:
            for digest, pending in self._pending.items():
                if digest not in now or pending.blind is not None:
                    await self._count(digest)
                if digest not in now:
                    self._end_journal(pending)
            self._settle(now, await asyncio.to_thread(self._look, now))

    def record_score(self, digest: str, tenant: str, logp_C: Floats) -> None:
        """A tenant's request was decided on this score, under that stored policy as it stands."""
        pending = self._pending.get(digest)
        if pending is None:
            return
        if len(pending.rows) >= MOST_WAITING:
            self._metrics.count_lost_scores(1)
            return
        pending.rows.append(
            self._journaled(digest, pending, ScoredRequest(tenant=tenant, logp_C=logp_C))
        )
        pending.since_s = pending.since_s or monotonic()
        self._schedule_count(digest, pending)

    def _schedule_count(self, digest: str, pending: _PendingScores) -> None:
        """Count what waits: now if it is a full batch, else soon."""
        if len(pending.rows) >= self._rows and pending.blind is None and not pending.counting:
            self._begin(digest)
        elif pending.rows and pending.timer is None:
            after_s = COUNTED_S if pending.blind is None else AGAIN_S
            pending.timer = asyncio.get_running_loop().call_later(after_s, self._begin, digest)

    async def flush(self) -> None:
        """Take in what waits, before the server goes."""
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
        """What an answer to a tenant says of its policy's promises.

        "certified"; "certified, drift seen" where the tenant's scores no longer look like the
        calibration scores; "certified, not watched" where nothing would be noticed of one: the
        policy is not watched, or the promise is about a slice that no label was given for yet; "no
        longer supported" after an alarm; "not certified" where the file says certified of one and
        does not bear it out (demur.store.policies.trust); "void" for a request that is outside what
        was promised: under thresholds of the caller's own, refused for declared text, or synthetic;
        "none" where nothing was certified in the first place.
        """
        if outside:
            return "void"
        read = {p.status for p in policy.promises}
        # whatever was said of a file with the same digest: a signature is no part of it
        if UNPROVEN in read:
            return UNPROVEN
        if CERTIFIED not in read:
            return LOST if LOST in read else "none"
        standing = self._standing_by_digest.get(digest)
        if standing is None:
            return LOST if self._status_by_key.get((digest, tenant)) == LOST else UNWATCHED
        said = self._status_by_key.get((digest, tenant))
        if said is None:
            said = self._status_by_key[digest, tenant] = _status_for(standing, tenant)
        return UNWATCHED if said != LOST and self._is_blind(self._pending[digest]) else said

    def _is_blind(self, pending: _PendingScores) -> bool:
        late = pending.since_s is not None and monotonic() - pending.since_s > HANGS_S
        return pending.blind is not None or late

    def _journaled(self, digest: str, pending: _PendingScores, row: ScoredRequest) -> ScoredRequest:
        """The row, on its way into the journal. Without a journal a kill loses what waits."""
        journal = pending.journal
        if journal is None:
            return row
        value = {"tenant": row.tenant, "logp": [float(v) for v in row.logp_C]}
        future = self._writer.submit(journal.append, value)
        future.add_done_callback(
            lambda done: self._drop_journal(digest, journal) if done.exception() else None
        )
        return replace(row, journal=journal.name)

    def _drop_journal(self, digest: str, journal: Journal) -> None:
        """Stop writing to a journal that cannot be written. Called from the writer's thread."""
        pending = self._pending.get(digest)
        if pending is not None and pending.journal is journal:
            pending.journal = None
            log_event(logging.ERROR, "journal lost", policy_hash=digest, journal=str(journal.path))

    def _end_journal(self, pending: _PendingScores) -> None:
        """Close a journal: it is removed if all its rows are counted, and else left for whoever
        begins next.
        """
        journal, pending.journal = pending.journal, None
        if journal is not None:
            all_counted = not pending.rows
            self._writer.submit(lambda: journal.end(remove=all_counted))

    def _look(self, policies: Mapping[str, Policy]) -> dict[str, LiveWatch | DemurError | None]:
        """How each policy stands by now; None: it cannot be watched. Files only: off the event
        loop.
        """
        found: dict[str, LiveWatch | DemurError | None] = {}
        for digest, policy in policies.items():
            before = self._standing_by_digest.get(digest)
            if self._unwatched.get(digest) == NO_SCORES:
                # looked for once; files that cannot be read may be half-way to another calibration
                continue
            try:
                found[digest] = standing = (
                    refreshed(before) if before else begin_watching(self._runs, policy)
                )
                if standing is not None and digest not in self._pending:
                    self._begun[digest] = _begun(standing)
            except DemurError as e:
                found[digest] = e
        return found

    def _settle(
        self, policies: Mapping[str, Policy], found: Mapping[str, LiveWatch | DemurError | None]
    ) -> None:
        """Put what was found in force. A state that cannot be read leaves a standing as it was, and
        nothing vouched.
        """
        old, self._standing_by_digest = self._standing_by_digest, {}
        for digest, outcome in found.items():
            standing = outcome if isinstance(outcome, LiveWatch) else old.get(digest)
            if standing is not None:
                self._standing_by_digest[digest] = standing
        self._pending = {
            d: self._pending.get(d) or self._begun.pop(d, _PendingScores())
            for d in self._standing_by_digest
        }
        for digest, pending in self._pending.items():
            if isinstance(outcome := found.get(digest), DemurError):
                pending.blind = outcome.message
        self._log_unwatched(policies, found)
        if gone := old.keys() - self._standing_by_digest.keys():
            self._status_by_key = {
                key: said
                for key, said in self._status_by_key.items()
                if key[0] not in gone or said == LOST
            }
            self._metrics.clear_promise_gauges()
        for digest, standing in self._standing_by_digest.items():
            before = old.get(digest)
            if standing is not before:
                _log_new_alarms(before, standing)
            if gone or standing is not before:
                self._publish(digest)

    def _log_unwatched(
        self, policies: Mapping[str, Policy], found: Mapping[str, LiveWatch | DemurError | None]
    ) -> None:
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

    def _begin(self, digest: str) -> None:
        task = asyncio.get_running_loop().create_task(self._take_in(digest))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _take_in(self, digest: str) -> None:
        async with self._lock:
            await self._count(digest)

    async def _count(self, digest: str) -> None:
        """Take in the scores that wait; those that cannot be counted now wait on. The caller holds
        the lock.
        """
        pending = self._pending.get(digest)
        # a blind one is tried without rows, too
        if pending is None or not (pending.rows or pending.blind):
            return
        if pending.timer is not None:
            pending.timer.cancel()
            pending.timer = None
        before, batch = self._standing_by_digest[digest], list(pending.rows)
        pending.counting = True
        try:
            after = await asyncio.to_thread(count_scores, before, batch)
            if pending.journal is None:
                pending.journal = (await asyncio.to_thread(_begun, after)).journal
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
        # answers must not go on saying that somebody watches
        except Exception as e:  # noqa: BLE001
            self._mark_blind(digest, pending, e)
            return
        finally:
            pending.counting = False
        pending.blind = None
        del pending.rows[: len(batch)]
        pending.since_s = monotonic() if pending.rows else None
        self._schedule_count(digest, pending)
        _log_new_alarms(before, after)
        self._standing_by_digest[digest] = after
        self._publish(digest)

    def _mark_blind(self, digest: str, pending: _PendingScores, error: Exception) -> None:
        """Vouch for nothing until the scores that wait can be counted, and try again later."""
        reason = error.message if isinstance(error, DemurError) else type(error).__name__
        if not isinstance(error, DemurError):
            log_crash(error, task="watch")
        if pending.blind != reason:
            log_event(
                logging.ERROR,
                "scores not watched",
                policy_hash=digest,
                reason=reason,
                waiting=len(pending.rows),
            )
        pending.blind = reason
        self._metrics.set_watch_blind(
            self._standing_by_digest[digest].policy.name, digest, blind=True
        )
        self._schedule_count(digest, pending)

    def _publish(self, digest: str) -> None:
        """Bring metrics and answers up to date about one policy."""
        standing = self._standing_by_digest[digest]
        self._status_by_key = {
            key: said for key, said in self._status_by_key.items() if key[0] != digest
        }
        tenants = sorted({*standing.monitors, ""})
        views = {tenant: standing.watched(tenant) for tenant in tenants}
        supported: dict[str, bool] = {}
        for watched in views.values():
            for w in watched:
                if w.promise.status in (CERTIFIED, LOST):
                    supported[w.promise.risk] = (
                        supported.get(w.promise.risk, True) and w.promise.status == CERTIFIED
                    )
        self._metrics.set_promise_status(standing.policy.name, digest, supported, standing.steps)
        for tenant, watched in views.items():
            lost = {
                w.promise.risk: bool(w.alarms)
                for w in watched
                if w.promise.status in (CERTIFIED, LOST)
            }
            self._metrics.set_tenant_status(
                (standing.policy.name, digest, tenant), lost, drifted=any(w.drift for w in watched)
            )
        self._metrics.set_watch_blind(
            standing.policy.name, digest, blind=self._is_blind(self._pending[digest])
        )


def _begun(standing: LiveWatch) -> _PendingScores:
    """The queue of a policy that begins to be watched, with its journal where one can be
    written.
    """
    try:
        return _PendingScores(journal=Journal(live_path(standing.folder, standing.policy)))
    except DemurError as e:
        log_event(
            logging.ERROR, "no journal", policy=standing.policy.name, reason=e.message, hint=e.hint
        )
        return _PendingScores(blind=e.message)


def _status_for(standing: LiveWatch, tenant: str) -> Promises:
    watched = standing.watched(tenant)
    if any(w.promise.status == LOST for w in watched):
        return LOST
    certified = [w for w in watched if w.promise.status == CERTIFIED]
    if any(w.drift for w in certified):
        return DRIFTED
    return UNWATCHED if any(w.unheard for w in certified) else CERTIFIED


def _policies_to_watch(policies: PolicySet) -> dict[str, Policy]:
    """The policies with something to watch, by digest."""
    live = policies.policies.values()
    return {
        n.digest: n.policy for n in live if any(p.status == CERTIFIED for p in n.policy.promises)
    }


def _log_new_alarms(before: LiveWatch | None, after: LiveWatch) -> None:
    """Log the alarms, and the drift, that were not there before."""
    known = _alarms(before) if before else {}
    for key, fields in _alarms(after).items():
        if key not in known:
            log_event(logging.WARNING, key[0], policy=after.policy.name, **fields)


def _alarms(standing: LiveWatch) -> dict[tuple[str, str, str], dict[str, str]]:
    """What is to be logged of a standing, by event, tenant and subject."""
    found: dict[tuple[str, str, str], dict[str, str]] = {}
    for tenant in sorted({*standing.monitors, ""}):
        for w in standing.watched(tenant):
            for a in w.alarms:
                fields = {"risk": w.promise.risk, "reason": a.text, "tenant": tenant}
                found["promise no longer supported", tenant, w.promise.risk] = fields
            for a in w.drift:
                found["drift seen", tenant, a.about] = {"reason": a.text, "tenant": tenant}
    return found
