"""Fingerprints as JSON values: in policies, model files, metrics and receipts."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import PlainSerializer

from demur.base.boundary import dumped
from demur.core.fingerprint import Fingerprint


def fingerprint_json(fingerprint: Fingerprint) -> dict[str, Any]:
    """The JSON value of a fingerprint."""
    row: dict[str, Any] = dumped(fingerprint)
    # Fingerprints of before there was a config_digest have no key for it: with one, the digest of
    # every policy and receipt that holds them would change.
    if row["config_digest"] is None:
        del row["config_digest"]
    return row


# the fingerprint of a Strict, written as above
StoredFingerprint = Annotated[Fingerprint, PlainSerializer(fingerprint_json)]
