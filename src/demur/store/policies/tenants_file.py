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

A file may be cut off: a full disk, an editor, a copy that broke. A file that is cut off must not
give anybody more than the whole file would. So:
1. The hash of a key stands last in its table: without its expiry there is no key.
2. A file with a line `# end` must end with one.
3. A reload refuses a file that is only the beginning of the one that it read before.
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
    """[tenants.<name>]: a core Tenant without its name, with its keys, and with limits on
    values.
    """

    policies: Annotated[tuple[str, ...], Field(min_length=1)]
    may_override: bool = False
    sees_scores: bool = False
    requests_per_minute: Annotated[int, Field(ge=1)] = 600
    concurrent: Annotated[int, Field(ge=1)] = 64
    synthetic: bool = False
    keys: tuple[KeyRow, ...] = ()


class TenantsFile(Strict):
    """The whole file. Its errors show no values: a key may have been pasted where its hash
    belongs.
    """

    model_config = ConfigDict(hide_input_in_errors=True)

    tenants: Annotated[dict[Annotated[str, Field(pattern=NAME)], TenantRow], Field(min_length=1)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Reread:
    """The result of reading a tenants file again."""

    tenants: Tenants  # in force from now on
    whole: str  # the text of the last sound file
    fault: ConfigError | None = None  # of this file; None if it is sound


def read_tenants(path: Path) -> Tenants:
    """Read tenants and keys. Raises ConfigError naming the file, the key and the remedy."""
    return _parsed(path, read_tenants_text(path))


def reread_tenants(path: Path, before: Tenants, whole: str) -> Reread:
    """Read a tenants file again, while a server runs on the tenants of before. Raises nothing.

    A sound file replaces them. A file at fault can only take keys away: a key that it no longer
    names (all of them, where the file is gone or unreadable) is not accepted any more; the others
    keep the rights of the last sound file.
    """
    text = ""  # of a file that cannot be read: it names no key
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
        # A file at fault may not parse, so its hashes are looked for as text; those in comments are
        # withdrawn ones.
        named = "\n".join(line.partition("#")[0] for line in text.splitlines())
        kept = tuple(key for key in before.keys if key.sha256 in named)
        return Reread(tenants=replace(before, keys=kept), whole=whole, fault=e)


def has_end(text: str) -> bool:
    """Whether the last line of a text is `# end`."""
    return text.rstrip().rpartition("\n")[2].strip() == END


def read_tenants_text(path: Path) -> str:
    """Read the text of a tenants file. Raises ConfigError."""
    try:
        # a pipe in its place would make a running server wait
        with open_regular(path) as file:
            # one byte more than allowed tells a file at the limit from a larger one
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
    # Keys added below an earlier end bring an end of their own: an end in the middle alone says
    # that the last lines are missing.
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
    # One key of two tenants would be whichever came last.
    _require_unique(f"{path}: key hash", tuple(k.sha256 for k in keys))
    return Tenants(tenants=tuple(tenants), keys=tuple(keys))


def key_block(tenant: str, label: str, key: str, expires: datetime | None = None) -> str:
    """The lines of a tenants file for a new key. Raises ConfigError on an invalid name or label.

    They may be added at the end of any file that has [tenants.<name>].
    """
    # validated as a part of a whole file: the same patterns refuse the same names
    row = {"label": label, "sha256": digest_of_key(key), "expires": expires}
    stated = {"tenants": {tenant: {"policies": ["any"], "keys": [row]}}}
    validated(TenantsFile, stated, "the new key", ConfigError)
    lines = [f"[[tenants.{tenant}.keys]]", f'label = "{label}"']
    if expires is not None:
        lines.append(f"expires = {expires.isoformat(timespec='seconds')}")
    lines += [f'sha256 = "{row["sha256"]}"', END]
    return "\n".join(lines) + "\n"


def _require_unique(what: str, values: tuple[str, ...]) -> None:
    """Raise ConfigError if a value occurs twice; of hashes only the beginning is shown."""
    for value in values:
        if values.count(value) > 1:
            raise ConfigError(
                f"{what} {value[:12]!r} occurs {values.count(value)} times", "name each once"
            )
