"""The policies and tenants in force, reloaded from their files while the server runs.

1. `current` is an immutable Access. A request takes it once, so a reload never changes it half-way.
2. A reload reads the tenants file first, then the policies, and puts each in force by itself.
3. A policy file that cannot be used leaves its policy in force. A tenants file that is missing or
   invalid may close keys, never open any; it is read twice before it does.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from demur.base.errors import ConfigError
from demur.server.monitoring.log import log_event
from demur.store.policies.folder import Change, PolicySet, reload
from demur.store.policies.keys import Tenants
from demur.store.policies.tenants_file import Reread, has_end, read_tenants_text, reread_tenants

# until a tenants file that would close keys is read again: an editor may be writing it
SETTLES_S = 0.2


# (policies in force, changes, fault of the tenants file as it stands)
OnReload = Callable[[PolicySet, Sequence[Change], str | None], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Access:
    """The policies and tenants in force at one time."""

    policies: PolicySet
    tenants: Tenants | None = None  # None: no keys, one local tenant
    tenants_file: Path | None = None


class AccessRegistry:
    """Holds and reloads the Access in force.

    on_reload: called after each reload. default_policy: for callers without a tenants file; the
    first by name if None. The constructor raises PolicyError for an invalid policy, and ConfigError
    for a policy that a tenant or the default names and that does not exist.
    """

    def __init__(
        self, access: Access, on_reload: OnReload, *, default_policy: str | None = None
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
        self._on_reload = on_reload
        self._lock = threading.Lock()  # of `reload`: a signal and the timer may both ask for one
        self._fault: str | None = None  # of the tenants file as it stands
        self._tenants_text = ""  # of the tenants file that is in force
        if access.tenants_file is not None:
            self._tenants_text = read_tenants_text(access.tenants_file)
            if not has_end(self._tenants_text):
                why = (
                    f"{access.tenants_file} has no last line '# end': one that was cut off "
                    "cannot be told from it"
                )
                log_event(logging.WARNING, "tenants without an end", reason=why)
        self._current = access
        _log_unproven(access.policies, names)

    @property
    def current(self) -> Access:
        """The Access for a request that arrives now."""
        return self._current

    @property
    def default_policy(self) -> str:
        """The default policy where there is no tenants file."""
        return self._default

    @property
    def is_locked_out(self) -> bool:
        """Whether an invalid or missing tenants file has left no key at all."""
        tenants = self._current.tenants
        return self._fault is not None and tenants is not None and not tenants.keys

    def reload(self) -> None:
        """Read the files again, and report faults in log and metrics. Blocks: use a thread."""
        with self._lock:
            # Keys first, and in force at once: a slow or faulty policy must not keep a key open
            # that was taken away.
            found = self._reread_tenants()
            tenants = self._current.tenants if found is None else found.tenants
            self._current = replace(self._current, tenants=tenants)
            # default policies are kept in force even if their files disappear
            needed = tenants.defaults if tenants is not None else {self._default}
            policies, changes = reload(self._current.policies, needed)
            self._current = replace(self._current, policies=policies)
            if found is not None:
                self._report_fault(found.fault or _missing_policy(found.tenants, policies))
        for change in changes:
            _log_change(change)
        _log_unproven(
            policies, [c.name for c in changes if c.kind in ("added", "changed") and c.name]
        )
        self._on_reload(policies, changes, self._fault)

    def _reread_tenants(self) -> Reread | None:
        """Read the tenants file again, twice if a fault would close keys; None if there is none."""
        path, before = self._current.tenants_file, self._current.tenants
        if path is None or before is None:
            return None
        found = reread_tenants(path, before, self._tenants_text)
        if found.fault is not None and found.tenants.keys != before.keys:
            time.sleep(SETTLES_S)
            found = reread_tenants(path, before, self._tenants_text)
        self._tenants_text = found.whole
        if found.tenants != before:
            now = found.tenants
            log_event(
                logging.INFO, "tenants in force", tenants=len(now.tenants), keys=len(now.keys)
            )
        return found

    def _report_fault(self, fault: ConfigError | None) -> None:
        """Log a fault of the tenants file, but only once for as long as it stays the same."""
        message = None if fault is None else fault.message
        if fault is not None and message != self._fault:
            log_event(logging.ERROR, "tenants rejected", reason=message, hint=fault.hint)
        self._fault = message


def _missing_policy(tenants: Tenants, policies: PolicySet) -> ConfigError | None:
    """Return the error about a policy that a tenant names and that does not exist, if there is one.

    The tenant may go on using its other policies.
    """
    try:
        tenants.require_policies(policies.policies)
    except ConfigError as e:
        return e
    return None


def _log_unproven(policies: PolicySet, names: Iterable[str]) -> None:
    """Log the promises of the named policies that are marked certified without being so."""
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


def _log_change(change: Change) -> None:
    level = logging.ERROR if change.kind == "rejected" else logging.INFO
    fields = {
        "file": change.file,
        "policy": change.name,
        "policy_hash": change.digest,
        "reason": change.message,
    }
    log_event(level, f"policy {change.kind}", **{k: v for k, v in fields.items() if v})
