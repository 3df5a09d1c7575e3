"""Whether live scores still support the promises: monitors for each policy in force, fed beside the
requests.

What an answer says of its promises is what the monitor can vouch for at that moment. A score waits
here until it is counted, at the latest a second later; meanwhile a journal holds it, so that a kill
loses only what was decided in the last instant (demur.store.locked). Where the state cannot be
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
from demur.server.answers import Promises
from demur.server.monitoring.log import crash, event
from demur.server.monitoring.metrics import Metrics
from demur.stages.watch import (
    LiveWatch,
    ScoredRequest,
    begin_watching,
    count_scores,
    live_path,
    refreshed,
)
from demur.store.locked import Journal
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
class _Waiting:
    """Scores of one policy that are not counted yet."""

    rows: list[ScoredRequest] = field(default_factory=list)
    since_s: float | None = None  # when the first of them came
    timer: asyncio.TimerHandle | None = None
    journal: Journal | None = None
    blind: str | None = None  # why the last batch could not be counted
    counting: bool = False  # a batch is being counted


class Drift:
    """The monitors of the policies in force, by digest.

    runs: folders whose calibration scores policies are watched from. A policy with certified
    promises that none of them has scores for is not watched, and answers say so. Raises, when made,
    ArtifactError on damaged files.
    """

    def __init__(
        self, runs: Sequence[RunFolder], policies: PolicySet, metrics: Metrics, rows: int
    ) -> None:
        self._runs = tuple(runs)
        self._standings: dict[str, LiveWatch] = {}
        self._waiting: dict[str, _Waiting] = {}
        self._begun: dict[str, _Waiting] = {}  # of policies that are about to be watched
        # what answers say, by policy and tenant; also of a lost one
        self._said: dict[tuple[str, str], Promises] = {}
        self._unwatched: dict[str, str] = {}  # policies that cannot be watched, and why
        self._metrics = metrics
        self._rows = rows
        self._lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        # One thread, so that journals are written in order, and a disk that hangs holds up no
        # request.
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="demur-journal")
        found = self._look(_in_force(policies))
        for outcome in found.values():
            if isinstance(outcome, DemurError):
                raise outcome
        self._settle(_in_force(policies), found)

    async def follow(self, policies: PolicySet) -> None:
        """Watch what is in force now, hear what others have seen of it, and let go of what is
        not.
        """
        now = _in_force(policies)
        async with self._lock:
            for digest, waiting in self._waiting.items():
                if digest not in now or waiting.blind is not None:
                    await self._count(digest)
                if digest not in now:
                    self._end_journal(waiting)
            self._settle(now, await asyncio.to_thread(self._look, now))

    def saw(self, digest: str, tenant: str, logp_C: Floats) -> None:
        """A tenant's request was decided on this score, under that stored policy as it stands."""
        waiting = self._waiting.get(digest)
        if waiting is None:
            return
        if len(waiting.rows) >= MOST_WAITING:
            self._metrics.scores_lost(1)
            return
        waiting.rows.append(
            self._journaled(digest, waiting, ScoredRequest(tenant=tenant, logp_C=logp_C))
        )
        waiting.since_s = waiting.since_s or monotonic()
        self._see_to(digest, waiting)

    def _see_to(self, digest: str, waiting: _Waiting) -> None:
        """Count what waits: now if it is a full batch, else soon."""
        if len(waiting.rows) >= self._rows and waiting.blind is None and not waiting.counting:
            self._begin(digest)
        elif waiting.rows and waiting.timer is None:
            after_s = COUNTED_S if waiting.blind is None else AGAIN_S
            waiting.timer = asyncio.get_running_loop().call_later(after_s, self._begin, digest)

    async def flush(self) -> None:
        """Take in what waits, before the server goes."""
        async with self._lock:
            for digest, waiting in self._waiting.items():
                if waiting.timer is not None:
                    waiting.timer.cancel()
                await self._count(digest)
                self._end_journal(waiting)
        self._writer.shutdown(wait=False)

    def promises(self, policy: Policy, digest: str, tenant: str, *, outside: bool) -> Promises:
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
        standing = self._standings.get(digest)
        if standing is None:
            return LOST if self._said.get((digest, tenant)) == LOST else UNWATCHED
        said = self._said.get((digest, tenant))
        if said is None:
            said = self._said[digest, tenant] = _said(standing, tenant)
        return UNWATCHED if said != LOST and self._is_blind(self._waiting[digest]) else said

    def _is_blind(self, waiting: _Waiting) -> bool:
        late = waiting.since_s is not None and monotonic() - waiting.since_s > HANGS_S
        return waiting.blind is not None or late

    def _journaled(self, digest: str, waiting: _Waiting, row: ScoredRequest) -> ScoredRequest:
        """The row, on its way into the journal. Without a journal a kill loses what waits."""
        journal = waiting.journal
        if journal is None:
            return row
        value = {"tenant": row.tenant, "logp": [float(v) for v in row.logp_C]}
        future = self._writer.submit(journal.append, value)
        future.add_done_callback(
            lambda done: self._lose_journal(digest, journal) if done.exception() else None
        )
        return replace(row, journal=journal.name)

    def _lose_journal(self, digest: str, journal: Journal) -> None:
        """Stop writing to a journal that cannot be written. Called from the writer's thread."""
        waiting = self._waiting.get(digest)
        if waiting is not None and waiting.journal is journal:
            waiting.journal = None
            event(logging.ERROR, "journal lost", policy_hash=digest, journal=str(journal.path))

    def _end_journal(self, waiting: _Waiting) -> None:
        """Close a journal: it is removed if all its rows are counted, and else left for whoever
        begins next.
        """
        journal, waiting.journal = waiting.journal, None
        if journal is not None:
            all_counted = not waiting.rows
            self._writer.submit(lambda: journal.end(remove=all_counted))

    def _look(self, policies: Mapping[str, Policy]) -> dict[str, LiveWatch | DemurError | None]:
        """How each policy stands by now; None: it cannot be watched. Files only: off the event
        loop.
        """
        found: dict[str, LiveWatch | DemurError | None] = {}
        for digest, policy in policies.items():
            before = self._standings.get(digest)
            if self._unwatched.get(digest) == NO_SCORES:
                # looked for once; files that cannot be read may be half-way to another calibration
                continue
            try:
                found[digest] = standing = (
                    refreshed(before) if before else begin_watching(self._runs, policy)
                )
                if standing is not None and digest not in self._waiting:
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
        old, self._standings = self._standings, {}
        for digest, outcome in found.items():
            standing = outcome if isinstance(outcome, LiveWatch) else old.get(digest)
            if standing is not None:
                self._standings[digest] = standing
        self._waiting = {
            d: self._waiting.get(d) or self._begun.pop(d, _Waiting()) for d in self._standings
        }
        for digest, waiting in self._waiting.items():
            if isinstance(outcome := found.get(digest), DemurError):
                waiting.blind = outcome.message
        self._tell_of_unwatched(policies, found)
        if gone := old.keys() - self._standings.keys():
            self._said = {
                key: said for key, said in self._said.items() if key[0] not in gone or said == LOST
            }
            self._metrics.unwatch()
        for digest, standing in self._standings.items():
            before = old.get(digest)
            if standing is not before:
                _tell_of_alarms(before, standing)
            if gone or standing is not before:
                self._show(digest)

    def _tell_of_unwatched(
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
                event(
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
        waiting = self._waiting.get(digest)
        # a blind one is tried without rows, too
        if waiting is None or not (waiting.rows or waiting.blind):
            return
        if waiting.timer is not None:
            waiting.timer.cancel()
            waiting.timer = None
        before, batch = self._standings[digest], list(waiting.rows)
        waiting.counting = True
        try:
            after = await asyncio.to_thread(count_scores, before, batch)
            if waiting.journal is None:
                waiting.journal = (await asyncio.to_thread(_begun, after)).journal
        except ScoreError as e:  # no later attempt could count them
            event(
                logging.ERROR,
                "scores not watched",
                policy_hash=digest,
                reason=e.message,
                hint=e.hint,
            )
            self._metrics.scores_lost(len(batch))
            del waiting.rows[: len(batch)]
            return
        # answers must not go on saying that somebody watches
        except Exception as e:  # noqa: BLE001
            self._go_blind(digest, waiting, e)
            return
        finally:
            waiting.counting = False
        waiting.blind = None
        del waiting.rows[: len(batch)]
        waiting.since_s = monotonic() if waiting.rows else None
        self._see_to(digest, waiting)
        _tell_of_alarms(before, after)
        self._standings[digest] = after
        self._show(digest)

    def _go_blind(self, digest: str, waiting: _Waiting, error: Exception) -> None:
        """Vouch for nothing until the scores that wait can be counted, and try again later."""
        reason = error.message if isinstance(error, DemurError) else type(error).__name__
        if not isinstance(error, DemurError):
            crash(error, task="watch")
        if waiting.blind != reason:
            event(
                logging.ERROR,
                "scores not watched",
                policy_hash=digest,
                reason=reason,
                waiting=len(waiting.rows),
            )
        waiting.blind = reason
        self._metrics.watch_blind(self._standings[digest].policy.name, digest, blind=True)
        self._see_to(digest, waiting)

    def _show(self, digest: str) -> None:
        """Bring metrics and answers up to date about one policy."""
        standing = self._standings[digest]
        self._said = {key: said for key, said in self._said.items() if key[0] != digest}
        tenants = sorted({*standing.monitors, ""})
        views = {tenant: standing.watched(tenant) for tenant in tenants}
        supported: dict[str, bool] = {}
        for watched in views.values():
            for w in watched:
                if w.promise.status in (CERTIFIED, LOST):
                    supported[w.promise.risk] = (
                        supported.get(w.promise.risk, True) and w.promise.status == CERTIFIED
                    )
        self._metrics.watched(standing.policy.name, digest, supported, standing.steps)
        for tenant, watched in views.items():
            lost = {
                w.promise.risk: bool(w.alarms)
                for w in watched
                if w.promise.status in (CERTIFIED, LOST)
            }
            self._metrics.seen_of_tenant(
                (standing.policy.name, digest, tenant), lost, drifted=any(w.drift for w in watched)
            )
        self._metrics.watch_blind(
            standing.policy.name, digest, blind=self._is_blind(self._waiting[digest])
        )


def _begun(standing: LiveWatch) -> _Waiting:
    """The queue of a policy that begins to be watched, with its journal where one can be
    written.
    """
    try:
        return _Waiting(journal=Journal(live_path(standing.folder, standing.policy)))
    except DemurError as e:
        event(
            logging.ERROR, "no journal", policy=standing.policy.name, reason=e.message, hint=e.hint
        )
        return _Waiting(blind=e.message)


def _said(standing: LiveWatch, tenant: str) -> Promises:
    watched = standing.watched(tenant)
    if any(w.promise.status == LOST for w in watched):
        return LOST
    certified = [w for w in watched if w.promise.status == CERTIFIED]
    if any(w.drift for w in certified):
        return DRIFTED
    return UNWATCHED if any(w.unheard for w in certified) else CERTIFIED


def _in_force(policies: PolicySet) -> dict[str, Policy]:
    """The policies with something to watch, by digest."""
    live = policies.policies.values()
    return {
        n.digest: n.policy for n in live if any(p.status == CERTIFIED for p in n.policy.promises)
    }


def _tell_of_alarms(before: LiveWatch | None, after: LiveWatch) -> None:
    """Log the alarms, and the drift, that were not there before."""
    known = _alarms(before) if before else {}
    for key, fields in _alarms(after).items():
        if key not in known:
            event(logging.WARNING, key[0], policy=after.policy.name, **fields)


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
