"""Whether live scores still support the promises: a run's monitor, fed batch by batch beside the requests."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

import numpy as np

from demur.core.errors import DemurError
from demur.core.policy import Policy
from demur.core.score import Floats
from demur.server.log import event
from demur.server.metrics import Metrics
from demur.stages.watch import Standing, take_in
from demur.store.policy_file import policy_digest

LOST = "no longer supported"


class Drift:
    """The monitors of the policies that are watched, by digest. Others are not watched, and nothing is said of them."""

    def __init__(self, standings: Sequence[Standing], metrics: Metrics, rows: int) -> None:
        self._standings = {policy_digest(s.policy): s for s in standings}
        self._waiting: dict[str, list[Floats]] = {digest: [] for digest in self._standings}
        self._statuses: dict[str, set[str]] = {}  # of the promises of each watched policy
        self._metrics = metrics
        self._rows = rows
        self._lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        for digest, standing in self._standings.items():
            self._show(digest, standing)

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
        for digest in self._standings:
            await self._take_in(digest)

    def promises(self, policy: Policy, digest: str, *, overridden: bool) -> str:
        """What an answer says of its policy's promises.

        "certified"; "no longer supported" after an alarm; "void" under thresholds of the caller's own, of which
        nothing was promised; "none" where nothing was certified in the first place.
        """
        if overridden:
            return "void"
        now = self._statuses.get(digest) or {p.status for p in policy.promises}
        if LOST in now:
            return LOST
        return "certified" if "certified" in now else "none"

    async def _take_in(self, digest: str) -> None:
        async with self._lock:
            batch, self._waiting[digest] = self._waiting[digest], []
            if not batch:
                return
            try:
                standing = await asyncio.to_thread(take_in, self._standings[digest], np.stack(batch))
            except DemurError as e:  # these scores are lost to the monitor; the requests were answered
                event(logging.ERROR, "scores not watched", policy_hash=digest, reason=e.message, hint=e.hint)
                return
            self._tell_of_alarms(self._standings[digest], standing)
            self._standings[digest] = standing
            self._show(digest, standing)

    def _show(self, digest: str, standing: Standing) -> None:
        self._statuses[digest] = {w.promise.status for w in standing.watched}
        promised = [w for w in standing.watched if w.promise.status in ("certified", LOST)]
        supported = {w.promise.risk: w.promise.status == "certified" for w in promised}
        self._metrics.watched(standing.policy.name, digest, supported, standing.monitor.series[0].steps)

    def _tell_of_alarms(self, before: Standing, after: Standing) -> None:
        known = {(w.promise.risk, a.about) for w in before.watched for a in w.alarms}
        for w in after.watched:
            for a in w.alarms:
                if (w.promise.risk, a.about) not in known:
                    event(
                        logging.WARNING,
                        "promise in doubt",
                        policy=after.policy.name,
                        risk=w.promise.risk,
                        reason=a.text,
                    )
