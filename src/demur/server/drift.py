"""Whether live scores still support the promises: a monitor for each policy in force, fed beside the requests."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence

import numpy as np

from demur.core.errors import DemurError
from demur.core.policy import Policy
from demur.core.score import Floats
from demur.server.answers import Promises
from demur.server.log import event
from demur.server.metrics import Metrics
from demur.stages.watch import Standing, begin_watching, listen, take_in
from demur.store.policy_folder import PolicySet
from demur.store.run import RunFolder

CERTIFIED: Promises = "certified"
LOST: Promises = "no longer supported"
UNPROVEN: Promises = "not certified"
NO_SCORES = "no watched run has calibration scores of its model"


class Drift:
    """The monitors of the policies in force, by digest.

    runs: folders whose calibration scores policies are watched from. A policy with certified promises that none of
    them has scores for is not watched, and answers say so. Raises, when made, ArtifactError on damaged files.
    """

    def __init__(self, runs: Sequence[RunFolder], policies: PolicySet, metrics: Metrics, rows: int) -> None:
        self._runs = tuple(runs)
        self._standings: dict[str, Standing] = {}
        self._waiting: dict[str, list[Floats]] = {}
        self._statuses: dict[str, set[str]] = {}  # of the promises of each watched policy, also of a lost one that left
        self._unwatched: dict[str, str] = {}  # policies that cannot be watched, and why
        self._metrics = metrics
        self._rows = rows
        self._lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        found = self._look(_in_force(policies))
        for outcome in found.values():
            if isinstance(outcome, DemurError):
                raise outcome
        self._settle(_in_force(policies), found)

    async def follow(self, policies: PolicySet) -> None:
        """Watch what is in force now, hear what `demur watch` says of it, and let go of what is not."""
        now = _in_force(policies)
        async with self._lock:
            for digest in [d for d in self._standings if d not in now]:
                await self._count(digest)
            self._settle(now, await asyncio.to_thread(self._look, now))

    def saw(self, digest: str, logp_C: Floats) -> None:
        """A request was decided on this score, under that stored policy as it stands."""
        waiting = self._waiting.get(digest)
        if waiting is None:
            return
        waiting.append(logp_C)
        if len(waiting) >= self._rows:
            task = asyncio.get_running_loop().create_task(self._take_in(digest))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def flush(self) -> None:
        """Take in what waits, before the server goes."""
        for digest in list(self._standings):
            await self._take_in(digest)

    def promises(self, policy: Policy, digest: str, *, overridden: bool) -> Promises:
        """What an answer says of its policy's promises.

        "certified"; "certified, not watched" where no drift would be noticed; "no longer supported" after an alarm;
        "not certified" where the file says certified of one and does not bear it out (demur.store.trust); "void"
        under thresholds of the caller's own, of which nothing was promised; "none" where nothing was certified in the
        first place.
        """
        if overridden:
            return "void"
        read = {p.status for p in policy.promises}
        if UNPROVEN in read:  # whatever was said of a file with the same digest: a signature is no part of it
            return UNPROVEN
        now = self._statuses.get(digest) or read
        if LOST in now:
            return LOST
        if CERTIFIED not in now:
            return "none"
        return CERTIFIED if digest in self._standings else "certified, not watched"

    def _look(self, policies: Mapping[str, Policy]) -> dict[str, Standing | DemurError | None]:
        """How each policy stands by now; None: it cannot be watched. Reads files and changes nothing."""
        found: dict[str, Standing | DemurError | None] = {}
        for digest, policy in policies.items():
            before = self._standings.get(digest)
            if self._unwatched.get(digest) == NO_SCORES:
                continue  # looked for once; files that cannot be read may be half-way to another calibration
            try:
                found[digest] = listen(before) if before else begin_watching(self._runs, policy)
            except DemurError as e:
                found[digest] = e
        return found

    def _settle(self, policies: Mapping[str, Policy], found: Mapping[str, Standing | DemurError | None]) -> None:
        """Put what was found in force. A state that cannot be read leaves a standing as it was."""
        old, self._standings = self._standings, {}
        for digest, outcome in found.items():
            standing = outcome if isinstance(outcome, Standing) else old.get(digest)
            if standing is not None:
                self._standings[digest] = standing
        self._waiting = {digest: self._waiting.get(digest, []) for digest in self._standings}
        self._tell_of_unwatched(policies, found)
        gone = old.keys() - self._standings.keys()
        if gone:
            self._statuses = {d: now for d, now in self._statuses.items() if d not in gone or LOST in now}
            self._metrics.unwatch()
        for digest, standing in self._standings.items():
            before = old.get(digest)
            if standing is not before:
                _tell_of_alarms(before, standing)
            if gone or standing is not before:
                self._show(digest)

    def _tell_of_unwatched(
        self, policies: Mapping[str, Policy], found: Mapping[str, Standing | DemurError | None]
    ) -> None:
        before = {digest: why for digest, why in self._unwatched.items() if digest in policies and digest not in found}
        reasons = {}
        for digest, outcome in found.items():
            if isinstance(outcome, DemurError):
                reasons[digest] = f"{outcome.message}; {outcome.hint}"
            elif outcome is None:
                reasons[digest] = NO_SCORES
        for digest, why in reasons.items():
            if self._unwatched.get(digest) != why:
                name = policies[digest].name
                event(logging.WARNING, "promises not watched", policy=name, policy_hash=digest, reason=why)
        self._unwatched = before | reasons

    async def _take_in(self, digest: str) -> None:
        async with self._lock:
            await self._count(digest)

    async def _count(self, digest: str) -> None:
        """Take in the scores that wait. The caller holds the lock."""
        batch = self._waiting.get(digest)
        if not batch:
            return
        self._waiting[digest] = []
        before = self._standings[digest]
        try:
            after = await asyncio.to_thread(take_in, before, np.stack(batch))
        except DemurError as e:  # these scores are lost to the monitor; the requests were answered
            event(logging.ERROR, "scores not watched", policy_hash=digest, reason=e.message, hint=e.hint)
            return
        _tell_of_alarms(before, after)
        self._standings[digest] = after
        self._show(digest)

    def _show(self, digest: str) -> None:
        """Bring metrics and answers up to date about one policy."""
        standing = self._standings[digest]
        promises = [w.promise for w in standing.watched]
        self._statuses[digest] = {p.status for p in promises}
        supported = {p.risk: p.status == CERTIFIED for p in promises if p.status in (CERTIFIED, LOST)}
        self._metrics.watched(standing.policy.name, digest, supported, standing.monitor.series[0].steps)


def _in_force(policies: PolicySet) -> dict[str, Policy]:
    """The policies with something to watch, by digest."""
    live = policies.policies.values()
    return {n.digest: n.policy for n in live if any(p.status == CERTIFIED for p in n.policy.promises)}


def _tell_of_alarms(before: Standing | None, after: Standing) -> None:
    """Log the alarms that were not there before."""
    known = {(w.promise.risk, a.source, a.about) for w in (before.watched if before else ()) for a in w.alarms}
    for w in after.watched:
        for a in w.alarms:
            if (w.promise.risk, a.source, a.about) not in known:
                event(
                    logging.WARNING,
                    "promise in doubt",
                    policy=after.policy.name,
                    risk=w.promise.risk,
                    reason=a.text,
                )
