"""Trust in policy files: which promises count, by their digests and by signatures.

1. Without trusted keys a certified promise counts if its digest fits the file.
2. With keys the file must be signed by one of them as well.
3. A promise that does not count becomes "not certified", or the policy is refused: `otherwise`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from demur.base.errors import ConfigError, PolicyError
from demur.core.goals.goal import Promise
from demur.store.policies.binding import fault_of
from demur.store.policies.signature import Signature, fault_of_signature, public_key_of

Otherwise = Literal["not certified", "error"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Trust:
    """The trusted public keys, and what becomes of promises that do not count. Raises ConfigError
    on an invalid key.
    """

    keys: tuple[str, ...] = ()  # Ed25519 public keys, as `demur sign --new-key` prints them
    # the policy decides, and nothing is promised; error: it is not used at all
    otherwise: Otherwise = "not certified"

    def __post_init__(self) -> None:
        if self.otherwise not in ("not certified", "error"):
            raise ConfigError(
                f"unproven promises: {self.otherwise!r}", 'known: "not certified", "error"'
            )
        for key in self.keys:
            public_key_of(key)


# the trust of the command line: a user of it can change the files that it reads anyway
DIGESTS_ONLY = Trust()


def checked_promises(
    promises: Sequence[Promise], value: Mapping[str, Any], signature: Signature | None, trust: Trust
) -> tuple[Promise, ...]:
    """Check the promises of a policy file: "certified" becomes "not certified" where digest or
    signature do not fit.

    value: the policy's JSON value without its signature. Raises PolicyError instead where
    `trust.otherwise` is "error"; with keys also for a policy without promises, since its thresholds
    are unproven too.
    """
    # A missing signature is a fault of the whole file, a digest one of each promise.
    unsigned = fault_of_signature(value, signature, trust.keys) if trust.keys else None
    if unsigned and trust.otherwise == "error":
        raise PolicyError(
            f"policy {value['name']!r}: {unsigned}", "sign it: demur sign POLICY --key FILE"
        )
    found = []
    for promise, row in zip(promises, value["promises"], strict=True):
        fault = (unsigned or fault_of(value, row)) if promise.status == "certified" else None
        if fault and trust.otherwise == "error":
            raise PolicyError(
                f"policy {value['name']!r}: promise {promise.risk!r} is not certified: {fault}",
                "restore the file as `demur calibrate` wrote it, or calibrate again",
            )
        found.append(replace(promise, status="not certified", fault=fault) if fault else promise)
    return tuple(found)
