"""What a reader asks of a policy file before it believes the promises in it."""

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
    """Whose policies are believed, and what becomes of the others. Raises ConfigError on a key that
    is none.

    Without keys a promise counts if its digest fits; with keys the whole file must be signed by one
    of them as well.
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


DIGESTS_ONLY = Trust()  # what the command line asks: whoever runs it can change the files it reads


def checked_promises(
    promises: Sequence[Promise], value: Mapping[str, Any], signature: Signature | None, trust: Trust
) -> tuple[Promise, ...]:
    """The promises of a policy file as they may be believed: "certified" becomes "not certified"
    where it may not.

    value: the policy's JSON value without its signature. Raises PolicyError instead where `trust`
    says so; with keys also for a policy that promises nothing: its thresholds are somebody's word
    as well.
    """
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
