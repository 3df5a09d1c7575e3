"""Who may ask for what, now: the policies and the tenants in force, looked at again while the server runs.

A request takes one Access at its start and keeps it, so that a reload never changes a request half-way.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from demur.core.errors import ConfigError
from demur.core.keys import Tenants
from demur.server.log import event
from demur.server.metrics import Metrics
from demur.store.policy_folder import Change, PolicySet, reload
from demur.store.tenants_file import read_tenants


@dataclass(frozen=True, kw_only=True, slots=True)
class Access:
    """Policies and tenants at one time."""

    policies: PolicySet
    tenants: Tenants | None = None  # None: no keys, one local tenant
    tenants_file: Path | None = None


class Book:
    """The Access in force. Raises, when made, PolicyError or ConfigError for files that cannot be served."""

    def __init__(self, access: Access, metrics: Metrics, *, default_policy: str | None = None) -> None:
        access.policies.require_sound()
        names = access.policies.policies
        if access.tenants is not None:
            access.tenants.require_policies(names)
        if default_policy is not None and default_policy not in names:
            raise ConfigError(
                f"there is no policy {default_policy!r} to fall back on", f"there are: {', '.join(names)}"
            )
        self._default = default_policy or sorted(names)[0]
        self._metrics = metrics
        self._lock = threading.Lock()
        self._complaint: str | None = None  # about the tenants file as it stands
        self._now = access
        metrics.policies(access.policies)
        _tell_of_unproven(access.policies, names)

    @property
    def now(self) -> Access:
        """What a request that comes now is served by."""
        return self._now

    @property
    def default_policy(self) -> str:
        """What a request without a tenants file falls back on."""
        return self._default

    def reload(self) -> None:
        """Look at the files again. A bad one changes nothing, and log and metrics say so. Blocks: use a thread."""
        with self._lock:
            tenants = self._now.tenants
            needed = tenants.defaults if tenants is not None else {self._default}
            policies, changes = reload(self._now.policies, needed)
            self._now = replace(self._now, policies=policies, tenants=self._tenants(policies))
        for change in changes:
            _tell(change)
        _tell_of_unproven(policies, [c.name for c in changes if c.kind in ("added", "changed") and c.name])
        self._metrics.reloaded(policies, changes, self._complaint)

    def _tenants(self, policies: PolicySet) -> Tenants | None:
        path, before = self._now.tenants_file, self._now.tenants
        if path is None:
            return before
        try:
            tenants = read_tenants(path)
            tenants.require_policies(policies.policies)
        except ConfigError as e:
            if self._complaint != e.message:
                event(logging.ERROR, "tenants rejected", reason=e.message, hint=e.hint)
            self._complaint = e.message
            return before
        if tenants != before or self._complaint is not None:
            event(logging.INFO, "tenants in force", tenants=len(tenants.tenants), keys=len(tenants.keys))
        self._complaint = None
        return tenants


def _tell_of_unproven(policies: PolicySet, names: Iterable[str]) -> None:
    """Log the promises of these policies that their files do not bear out."""
    for live in (policies.policies[name] for name in names):
        for promise in live.policy.promises:
            if promise.fault is not None:
                event(
                    logging.ERROR,
                    "promise not certified",
                    policy=live.policy.name,
                    policy_hash=live.digest,
                    risk=promise.risk,
                    reason=promise.fault,
                )


def _tell(change: Change) -> None:
    level = logging.ERROR if change.kind == "rejected" else logging.INFO
    fields = {"file": change.file, "policy": change.name, "policy_hash": change.digest, "reason": change.message}
    event(level, f"policy {change.kind}", **{k: v for k, v in fields.items() if v})
