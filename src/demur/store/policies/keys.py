"""API keys: only their hashes are stored, and a check takes the same time for every presented
key.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from demur.base.errors import ConfigError
from demur.core.access import Tenant


@dataclass(frozen=True, kw_only=True, slots=True)
class ApiKey:
    """One key of one tenant. A tenant has several while it changes from one to the next."""

    tenant: Tenant
    label: str  # what the operator calls it; may stand in logs, unlike the key
    sha256: str = field(repr=False)  # of the key: 64 hex digits
    expires: datetime | None = None  # with a time zone; None: never


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyProblem:
    """The reason why a key is not accepted. "expired" may be told to the client, which holds the
    key; the other reasons are for the log.
    """

    reason: Literal["missing", "unknown", "expired"]
    key: ApiKey | None = None  # the expired one


@dataclass(frozen=True, kw_only=True, slots=True)
class Tenants:
    """All customers of a server, and their keys."""

    tenants: tuple[Tenant, ...]
    keys: tuple[ApiKey, ...]

    @property
    def defaults(self) -> frozenset[str]:
        """Each tenant's default policy, by name: a server must not lose one while it runs."""
        return frozenset(t.policies[0] for t in self.tenants)

    def require_policies(self, names: Collection[str]) -> None:
        """Raise ConfigError, naming tenant and policy, if a tenant names a policy that there is
        not. For start-up.
        """
        for tenant in self.tenants:
            for policy in tenant.policies:
                if policy not in names:
                    raise ConfigError(
                        f"tenant {tenant.name!r} names policy {policy!r}, which is not there",
                        f"there are: {', '.join(sorted(names)) or 'none'}",
                    )


def digest_of_key(presented: str) -> str:
    """The sha256 of a key, 64 hex digits, which tenants files hold in its place."""
    # Keys are 32 random bytes, so no salt is needed. surrogatepass: a client may send bytes that
    # are no text, and they are unknown, not an error.
    return hashlib.sha256(presented.encode("utf-8", "surrogatepass")).hexdigest()


def authenticate(
    keys: Sequence[ApiKey], presented: str | None, now: datetime
) -> ApiKey | KeyProblem:
    """Look up a presented key: the key with its tenant, or the problem. `now` has a time zone.

    Every stored hash is compared, in constant time each: the time taken says nothing about any key.
    """
    if not presented:
        return KeyProblem(reason="missing")
    digest = digest_of_key(presented)
    found = None
    for key in keys:
        if hmac.compare_digest(key.sha256, digest):
            found = key  # and on with the others: no early way out
    if found is None:
        return KeyProblem(reason="unknown")
    if found.expires is not None and found.expires <= now:
        return KeyProblem(reason="expired", key=found)
    return found
