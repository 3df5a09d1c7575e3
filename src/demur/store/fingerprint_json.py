"""Fingerprints as JSON values: in policies, model files, metrics and receipts."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import PlainSerializer

from demur.base.boundary import Strict, dumped, every_key, validated
from demur.core.fingerprint import Fingerprint


def fingerprint_json(fingerprint: Fingerprint) -> dict[str, Any]:
    """The JSON value of a fingerprint."""
    row: dict[str, Any] = dumped(fingerprint)
    # Fingerprints of before there was a config_digest have no key for it: with one, the digest of
    # every policy and receipt that holds them would change.
    if row["config_digest"] is None:
        del row["config_digest"]
    return row


def read_fingerprint(value: object, where: str) -> Fingerprint:
    """The fingerprint of a JSON value. Raises ArtifactError on one that is damaged."""
    return validated(_Holder, {"fingerprint": value}, where).fingerprint


# the fingerprint of a Strict, written as above
StoredFingerprint = Annotated[
    Fingerprint, every_key(Fingerprint, "config_digest"), PlainSerializer(fingerprint_json)
]


class _Holder(Strict):
    fingerprint: StoredFingerprint
