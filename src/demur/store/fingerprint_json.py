"""Fingerprints in files."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import PlainSerializer

from demur.base.boundary import dumped
from demur.core.fingerprint import Fingerprint


def fingerprint_json(fingerprint: Fingerprint) -> dict[str, Any]:
    """The JSON value of a fingerprint. Where it has no config_digest, it has no key for one: what
    was written before there was such a digest keeps its own digest.
    """
    row: dict[str, Any] = dumped(fingerprint)
    if row["config_digest"] is None:
        del row["config_digest"]
    return row


# the fingerprint of a Strict, written as above
StoredFingerprint = Annotated[Fingerprint, PlainSerializer(fingerprint_json)]
