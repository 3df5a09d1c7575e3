"""Who may ask for what, now: the policies and the tenants in force, looked at again while the
server runs.

A request takes one Access at its start and keeps it, so that a reload never changes a request
half-way.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from demur.base.errors import ConfigError
from demur.server.monitoring.log import log_event
from demur.server.monitoring.metrics import Metrics
from demur.store.policies.folder import Change, PolicySet, reload
from demur.store.policies.keys import Tenants
from demur.store.policies.tenants_file import Reread, has_end, read_tenants_text, reread_tenants

SETTLES_S = 0.2  # after which a tenants file that shuts keys out is looked at again, before it does


@dataclass(frozen=True, kw_only=True, slots=True)
class Access:
    """Policies and tenants at one time."""

    policies: PolicySet
    tenants: Tenants | None = None  # None: no keys, one local tenant
    tenants_file: Path | None = None


class AccessRegistry:
    """The Access in force. Raises, when made, PolicyError or ConfigError for files that cannot be
    served.
    """

    def __init__(
        self, access: Access, metrics: Metrics, *, default_policy: str | None = None
    ) -> None:
        access.policies.require_sound()
        names = access.policies.policies
        if access.tenants is not None:
            access.tenants.require_policies(names)
        if default_policy is not None and default_policy not in names:
            raise ConfigError(
                f"there is no policy {default_policy!r} to fall back on",
                f"there are: {', '.join(names)}",
            )
        self._default = default_policy or sorted(names)[0]
        self._metrics = metrics
        self._lock = threading.Lock()
        self._complaint: str | None = None  # about the tenants file as it stands
        self._whole = ""  # the tenants file as it was last taken
        if access.tenants_file is not None:
            self._whole = read_tenants_text(access.tenants_file)
            if not has_end(self._whole):
                why = (
                    f"{access.tenants_file} has no last line '# end': one that was cut off "
                    "cannot be told from it"
                )
                log_event(logging.WARNING, "tenants without an end", reason=why)
        self._now = access
        metrics.set_policies(access.policies)
        _tell_of_unproven(access.policies, names)

    @property
    def current(self) -> Access:
        """What a request that comes now is served by."""
        return self._now

    @property
    def default_policy(self) -> str:
        """What a request without a tenants file falls back on."""
        return self._default

    @property
    def is_locked_out(self) -> bool:
        """Whether a bad or missing tenants file has left no key that opens anything."""
        tenants = self._now.tenants
        return self._complaint is not None and tenants is not None and not tenants.keys

    def reload(self) -> None:
        """Look at the files again; log and metrics say what is wrong with them. Blocks: use a
        thread.

        Keys first, for nothing in the policies may keep one open that was taken away.
        """
        with self._lock:
            found = self._reread()
            tenants = self._now.tenants if found is None else found.tenants
            self._now = replace(self._now, tenants=tenants)
            needed = tenants.defaults if tenants is not None else {self._default}
            policies, changes = reload(self._now.policies, needed)
            self._now = replace(self._now, policies=policies)
            if found is not None:
                self._complain(found.fault or _missing(found.tenants, policies))
        for change in changes:
            _tell(change)
        _tell_of_unproven(
            policies, [c.name for c in changes if c.kind in ("added", "changed") and c.name]
        )
        self._metrics.record_reload(policies, changes, self._complaint)

    def _reread(self) -> Reread | None:
        """The tenants file, looked at again; None without one. What would shut a key out is looked
        at twice.
        """
        path, before = self._now.tenants_file, self._now.tenants
        if path is None or before is None:
            return None
        found = reread_tenants(path, before, self._whole)
        if found.fault is not None and found.tenants.keys != before.keys:
            time.sleep(SETTLES_S)  # an editor may be writing it
            found = reread_tenants(path, before, self._whole)
        self._whole = found.whole
        if found.tenants != before:
            now = found.tenants
            log_event(
                logging.INFO, "tenants in force", tenants=len(now.tenants), keys=len(now.keys)
            )
        return found

    def _complain(self, fault: ConfigError | None) -> None:
        """Log what is wrong with the tenants file, once."""
        message = None if fault is None else fault.message
        if fault is not None and message != self._complaint:
            log_event(logging.ERROR, "tenants rejected", reason=message, hint=fault.hint)
        self._complaint = message


def _missing(tenants: Tenants, policies: PolicySet) -> ConfigError | None:
    """The first policy that a tenant names and that is not there. It can ask for the others all the
    same.
    """
    try:
        tenants.require_policies(policies.policies)
    except ConfigError as e:
        return e
    return None


def _tell_of_unproven(policies: PolicySet, names: Iterable[str]) -> None:
    """Log the promises of these policies that their files do not bear out."""
    for live in (policies.policies[name] for name in names):
        for promise in live.policy.promises:
            if promise.fault is not None:
                log_event(
                    logging.ERROR,
                    "promise not certified",
                    policy=live.policy.name,
                    policy_hash=live.digest,
                    risk=promise.risk,
                    reason=promise.fault,
                )


def _tell(change: Change) -> None:
    level = logging.ERROR if change.kind == "rejected" else logging.INFO
    fields = {
        "file": change.file,
        "policy": change.name,
        "policy_hash": change.digest,
        "reason": change.message,
    }
    log_event(level, f"policy {change.kind}", **{k: v for k, v in fields.items() if v})
