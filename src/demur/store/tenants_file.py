"""tenants.toml: who may use the server, with which policies and how much, and the hashes of their API keys.

[tenants.acme]
policies = ["default", "careful"]     # the first is the default
may_override = true                   # also: sees_scores, requests_per_minute, concurrent

[[tenants.acme.keys]]                 # made by `demur keys acme`
label = "backend"
sha256 = "..."
expires = 2030-01-01T00:00:00Z        # optional
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

from pydantic import AwareDatetime, ConfigDict, Field

from demur.core.access import Tenant
from demur.core.errors import ConfigError
from demur.core.keys import ApiKey, Tenants, digest_of_key
from demur.store.boundary import Strict, read_toml, validated

# Names and labels stand in logs, in metrics and in TOML keys: nothing that would need quoting there.
NAME = r"^[A-Za-z0-9_-]{1,64}$"
LABEL = r"^[\w .:@/-]{1,64}$"


class KeyRow(Strict):
    """[[tenants.<name>.keys]]"""

    label: Annotated[str, Field(pattern=LABEL)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    expires: AwareDatetime | None = None


class TenantRow(Strict):
    """[tenants.<name>]"""

    policies: Annotated[tuple[str, ...], Field(min_length=1)]
    may_override: bool = False
    sees_scores: bool = False
    requests_per_minute: Annotated[int, Field(ge=1)] = 600
    concurrent: Annotated[int, Field(ge=1)] = 64
    keys: tuple[KeyRow, ...] = ()


class TenantsFile(Strict):
    """The whole file. Its errors show no values: someone may have pasted a key where its hash belongs."""

    model_config = ConfigDict(hide_input_in_errors=True)

    tenants: Annotated[dict[Annotated[str, Field(pattern=NAME)], TenantRow], Field(min_length=1)]


def read_tenants(path: Path) -> Tenants:
    """The tenants and keys of a file. Raises ConfigError naming the file, the key and the remedy."""
    file = validated(TenantsFile, read_toml(path), str(path), ConfigError)
    tenants, keys = [], []
    for name, row in file.tenants.items():
        tenant = Tenant(name=name, **row.model_dump(exclude={"keys"}))
        _require_unique(f"{path}: tenants.{name}: policy", tenant.policies)
        _require_unique(f"{path}: tenants.{name}: key label", tuple(k.label for k in row.keys))
        tenants.append(tenant)
        keys += [ApiKey(tenant=tenant, label=k.label, sha256=k.sha256, expires=k.expires) for k in row.keys]
    _require_unique(f"{path}: key hash", tuple(k.sha256 for k in keys))
    return Tenants(tenants=tuple(tenants), keys=tuple(keys))


def key_block(tenant: str, label: str, key: str, expires: datetime | None = None) -> str:
    """The lines of a tenants file that let a key in. Raises ConfigError on a name or label that could not stand there.

    They may be added at the end of the file, whatever stands before, once it has [tenants.<name>].
    """
    row = {"label": label, "sha256": digest_of_key(key), "expires": expires}
    stated = {"tenants": {tenant: {"policies": ["any"], "keys": [row]}}}
    validated(TenantsFile, stated, "the new key", ConfigError)
    lines = [f"[[tenants.{tenant}.keys]]", f'label = "{label}"', f'sha256 = "{row["sha256"]}"']
    if expires is not None:
        lines.append(f"expires = {expires.isoformat(timespec='seconds')}")
    return "\n".join(lines) + "\n"


def _require_unique(what: str, values: tuple[str, ...]) -> None:
    for value in values:
        if values.count(value) > 1:
            raise ConfigError(f"{what} {value[:12]!r} occurs {values.count(value)} times", "name each once")
