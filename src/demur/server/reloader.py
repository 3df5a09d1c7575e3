"""The task that looks at policies, tenants and promises again while the server runs. No error ends
it.

An error that nobody foresaw would otherwise stop every later look, and with it every later
revocation of a key, while metrics go on looking as they did. Here it makes the server not ready, is
logged and counted, and the next look comes.
"""

from __future__ import annotations

import asyncio
from time import monotonic

from demur.server.monitoring.log import log_crash
from demur.server.monitoring.metrics import Metrics
from demur.server.monitoring.promises import PromiseMonitors
from demur.server.registry import AccessRegistry

LATE = 10  # looks that may be missing before a file system that hangs counts as a failure
LATE_S = 30.0  # and never earlier than this


class PolicyReloader:
    """Looks again every so often."""

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
        self._looked_s = monotonic()

    @property
    def fault(self) -> str | None:
        """Why files may have changed without anybody's noticing; None while all is well."""
        if self._failing:
            return "the last look at policies and tenants failed"
        late_s = monotonic() - self._looked_s
        if late_s > max(LATE_S, LATE * self._every_s):
            return f"no look at policies and tenants has ended for {late_s:.0f} s"
        return (
            "the tenants file is bad or gone, and no key opens anything"
            if self._registry.is_locked_out
            else None
        )

    async def run(self) -> None:
        """Look, until cancelled."""
        while True:
            await asyncio.sleep(self._every_s)
            await self.reload_once()

    async def reload_once(self) -> None:
        """Look once. An error is told, and remembered until a look succeeds."""
        try:
            await asyncio.to_thread(self._registry.reload)
            await self._monitors.update_policies(self._registry.current.policies)
        # whatever it is, the next look must come: see the module
        except Exception as e:  # noqa: BLE001
            self._failing = True
            log_crash(e, task="reload")
        else:
            self._failing = False
            self._looked_s = monotonic()
        self._metrics.set_reload_failing(self._failing)
