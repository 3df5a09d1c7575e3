"""The policy to fall back on where goals cannot be certified: `on_failure = "keep:natural"` or
`"keep:<policy file>"`.
"""

from __future__ import annotations

from pathlib import Path

from demur.base.errors import ConfigError
from demur.core.calibrator import IDENTITY
from demur.core.fingerprint import Fingerprint
from demur.core.policy import Policy, natural
from demur.core.taxonomy import Taxonomy
from demur.store.policies.policy_file import read_policy
from demur.store.run import RunFolder


def fallback_file(on_failure: str, folder: RunFolder) -> Path | None:
    """The file of on_failure = "keep:<file>", relative to the run folder; None otherwise. Raises
    ConfigError on the policy that this stage writes.
    """
    name = on_failure.removeprefix("keep:")
    if name in (on_failure, "natural"):
        return None
    path = folder.root / name
    if path.resolve() == folder.policy.resolve():
        raise ConfigError(
            f"on_failure keeps {path}, which this stage writes",
            "copy it elsewhere, and keep the copy",
        )
    return path


def fallback_policy(
    path: Path | None, on_failure: str, taxonomy: Taxonomy, fingerprint: Fingerprint
) -> Policy | None:
    """The policy to use if the goals cannot be certified; None if on_failure names none.

    Raises PolicyError if it is of another model, ConfigError if it has a calibrator: nothing
    records which rows that was fitted on.
    """
    if path is None:
        return natural(taxonomy, fingerprint) if on_failure == "keep:natural" else None
    policy = read_policy(path)
    policy.require_model(fingerprint)
    if policy.calibrator != IDENTITY:
        raise ConfigError(
            f"on_failure keeps {path}, which carries a calibrator", "keep a policy without one"
        )
    return policy
