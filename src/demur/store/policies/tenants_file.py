"""tenants.toml: who may use the server, with which policies and how much, and the hashes of their
API keys.

[tenants.acme]
policies = ["default", "careful"]     # the first is the default
may_override = true                   # also: sees_scores, requests_per_minute, concurrent

[[tenants.acme.keys]]                 # made by `demur keys acme`
label = "backend"
expires = 2030-01-01T00:00:00Z        # optional
sha256 = "..."
# end

A file may be cut off: a full disk, an editor, a copy that broke. What is cut off must not open a
door, so (1) a key's hash stands last in its table, (2) a file with a line `# end` must end with
one, and (3) a reload does not take a file for whole that is only the beginning of what it read
before.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Annotated

from pydantic import AwareDatetime, ConfigDict, Field

from demur.base.boundary import Strict, toml_value, validated
from demur.base.errors import ConfigError
from demur.base.files import open_regular
from demur.core.access import Tenant
from demur.store.policies.keys import ApiKey, Tenants, digest_of_key

# Names and labels stand in logs, in metrics and in TOML keys: nothing that would need quoting
# there.
NAME = r"^[A-Za-z0-9_-]{1,64}$"
LABEL = r"^[\w .:@/-]{1,64}$"
END = "# end"  # the last line of a whole file
MOST_BYTES = 16 << 20  # some 60,000 keys


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
    synthetic: bool = False
    keys: tuple[KeyRow, ...] = ()


class TenantsFile(Strict):
    """The whole file. Its errors show no values: someone may have pasted a key where its hash
    belongs.
    """

    model_config = ConfigDict(hide_input_in_errors=True)

    tenants: Annotated[dict[Annotated[str, Field(pattern=NAME)], TenantRow], Field(min_length=1)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Reread:
    """A tenants file looked at again."""

    tenants: Tenants  # to be in force now
    whole: str  # the text of the last file that was taken as it stands
    fault: ConfigError | None = None  # why this one was not


def read_tenants(path: Path) -> Tenants:
    """The tenants and keys of a file. Raises ConfigError naming the file, the key and the
    remedy.
    """
    return _parsed(path, read_tenants_text(path))


def reread_tenants(path: Path, before: Tenants, whole: str) -> Reread:
    """The tenants to be in force, given those before. Raises nothing.

    A sound file is taken as it stands. Of any other the one thing that is believed is which keys it
    still names: a key that it does not name (all, where it is gone or cannot be read) opens nothing
    any more; the others keep what the last sound file gave them.
    """
    text = ""
    try:
        text = read_tenants_text(path)
        if text != whole and whole.startswith(text) and not has_end(text):
            raise ConfigError(
                f"{path} is the beginning of what it held before: it was cut off",
                f"end it with {END!r}",
            )
        if has_end(whole) and not has_end(text):
            raise ConfigError(
                f"{path} has lost its last line {END!r}: was it cut off?",
                "write the whole file again",
            )
        return Reread(tenants=_parsed(path, text), whole=text)
    except ConfigError as e:
        named = "\n".join(line.partition("#")[0] for line in text.splitlines())
        kept = tuple(key for key in before.keys if key.sha256 in named)
        return Reread(tenants=replace(before, keys=kept), whole=whole, fault=e)


def has_end(text: str) -> bool:
    """Whether a file says where it ends."""
    return text.rstrip().rpartition("\n")[2].strip() == END


def read_tenants_text(path: Path) -> str:
    """The text of a tenants file. Raises ConfigError; a pipe in its place does not make the reader
    wait.
    """
    try:
        with open_regular(path) as file:
            data = file.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise ConfigError(f"{path} has more than {MOST_BYTES} bytes", "it is no tenants file")
        return data.decode("utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(
            f"{path} does not exist", "put it back: without it no key opens anything"
        ) from None
    # also a name that no file can have, and text that is not UTF-8
    except (OSError, ValueError) as e:
        raise ConfigError(
            f"cannot read {path}: {e}", "expected a readable UTF-8 text file"
        ) from None


def _parsed(path: Path, text: str) -> Tenants:
    if END in (line.strip() for line in text.splitlines()) and not has_end(text):
        raise ConfigError(
            f"{path} does not end with {END!r}: was it cut off?", "write the whole file again"
        )
    file = validated(TenantsFile, toml_value(text, path), str(path), ConfigError)
    tenants, keys = [], []
    for name, row in file.tenants.items():
        tenant = Tenant(name=name, **row.model_dump(exclude={"keys"}))
        _require_unique(f"{path}: tenants.{name}: policy", tenant.policies)
        _require_unique(f"{path}: tenants.{name}: key label", tuple(k.label for k in row.keys))
        tenants.append(tenant)
        keys += [
            ApiKey(tenant=tenant, label=k.label, sha256=k.sha256, expires=k.expires)
            for k in row.keys
        ]
    _require_unique(f"{path}: key hash", tuple(k.sha256 for k in keys))
    return Tenants(tenants=tuple(tenants), keys=tuple(keys))


def key_block(tenant: str, label: str, key: str, expires: datetime | None = None) -> str:
    """The lines of a tenants file that let a key in. Raises ConfigError on a name or label that
    could not stand there.

    They may be added at the end of the file, whatever stands before, once it has [tenants.<name>].
    The hash comes last: a key without its expiry is no key.
    """
    row = {"label": label, "sha256": digest_of_key(key), "expires": expires}
    stated = {"tenants": {tenant: {"policies": ["any"], "keys": [row]}}}
    validated(TenantsFile, stated, "the new key", ConfigError)
    lines = [f"[[tenants.{tenant}.keys]]", f'label = "{label}"']
    if expires is not None:
        lines.append(f"expires = {expires.isoformat(timespec='seconds')}")
    lines += [f'sha256 = "{row["sha256"]}"', END]
    return "\n".join(lines) + "\n"


def _require_unique(what: str, values: tuple[str, ...]) -> None:
    for value in values:
        if values.count(value) > 1:
            raise ConfigError(
                f"{what} {value[:12]!r} occurs {values.count(value)} times", "name each once"
            )
