"""The task that reloads policies, tenants and monitors while the server runs.

No error ends it: else one bug would stop every later reload, and with it every revocation of a key,
unnoticed. An error is logged, shows in the metrics, and makes the server not ready until a reload
succeeds.
"""

from __future__ import annotations

import asyncio
from time import monotonic

from demur.server.monitoring.log import log_crash
from demur.server.monitoring.metrics import Metrics
from demur.server.monitoring.promises import PromiseMonitors
from demur.server.registry import AccessRegistry

# A reload counts as failed after so many intervals without one, and never earlier than LATE_S: a
# file system may hang.
LATE = 10
LATE_S = 30.0


class PolicyReloader:
    """Reloads every so many seconds."""

    def __init__(
        self, registry: AccessRegistry, monitors: PromiseMonitors, metrics: Metrics, every_s: float
    ) -> None:
        self._registry, self._monitors, self._metrics, self._every_s = (
            registry,
            monitors,
            metrics,
            every_s,
        )
        self._failing = False
        self._reloaded_s = monotonic()

    @property
    def fault(self) -> str | None:
        """Why the server does not know its files' present state, or None if it does."""
        if self._failing:
            return "the last reload of policies and tenants failed"
        late_s = monotonic() - self._reloaded_s
        if late_s > max(LATE_S, LATE * self._every_s):
            return f"no reload of policies and tenants has ended for {late_s:.0f} s"
        if self._registry.is_locked_out:
            return "the tenants file is invalid or missing, and no key is accepted"
        return None

    async def run(self) -> None:
        """Reload again and again, until cancelled."""
        while True:
            await asyncio.sleep(self._every_s)
            await self.reload_once()

    async def reload_once(self) -> None:
        """Reload once. An error is logged, and is the fault until a reload succeeds."""
        try:
            await asyncio.to_thread(self._registry.reload)
            await self._monitors.update_policies(self._registry.current.policies)
        # whatever it is, the next reload must come: see the head of this module
        except Exception as e:  # noqa: BLE001
            self._failing = True
            log_crash(e, task="reload")
        else:
            self._failing = False
            self._reloaded_s = monotonic()
        self._metrics.set_reload_failing(self._failing)
