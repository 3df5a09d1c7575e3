"""Signatures of policies: Ed25519 (RFC 8032) over the digest of the policy's JSON value, kept
inside the file.

1. The signed message is a fixed prefix and the digest: a signature for another purpose does not
   fit.
2. Signature and policy are one file, so that a reload never meets one without the other.
3. The signature is no part of the policy's digest: answers and logs carry the same digest before
   and after signing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from demur.base.boundary import Strict
from demur.base.errors import ArtifactError, ConfigError, MissingDependency
from demur.base.files import digest_json

PREFIX = "ed25519:"  # before 64 hex digits: a public key
_KEY = re.compile(r"ed25519:[0-9a-f]{64}")
_DOMAIN = b"demur.policy.signature/1\n"  # before what is signed: no other program signs such bytes


class Signature(Strict):
    """A public key, and its signature of the policy."""

    key: Annotated[str, Field(pattern=f"^{_KEY.pattern}$")]
    value: Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]


def new_private_key(path: Path) -> str:
    """Write a new private key (PEM, readable by its owner alone) and return its public key.

    Raises ArtifactError if the file is there already or cannot be written.
    """
    ed25519, serialization = _ed25519()
    private = ed25519.Ed25519PrivateKey.generate()
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    try:
        # O_EXCL: an existing key is never overwritten. The mode is set before the key is there.
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as e:
        raise ArtifactError(
            f"cannot write {path}: {e.strerror or e}", "name a new file in a folder of yours"
        ) from None
    with os.fdopen(handle, "wb") as file:
        file.write(pem)
    return _named(private.public_key())


def sign(value: Mapping[str, Any], key_file: Path) -> Signature:
    """The signature of a policy's JSON value. Raises ConfigError on a file without an Ed25519
    private key.
    """
    ed25519, serialization = _ed25519()
    try:
        private = serialization.load_pem_private_key(key_file.read_bytes(), password=None)
    except OSError as e:
        raise ConfigError(
            f"cannot read {key_file}: {e.strerror or e}", "make one: demur sign --new-key FILE"
        ) from None
    except (ValueError, TypeError):  # not PEM, of another kind, or encrypted
        private = None
    if not isinstance(private, ed25519.Ed25519PrivateKey):
        raise ConfigError(
            f"{key_file} holds no Ed25519 private key", "make one: demur sign --new-key FILE"
        )
    return Signature(key=_named(private.public_key()), value=private.sign(_message(value)).hex())


def fault_of_signature(
    value: Mapping[str, Any], signature: Signature | None, keys: Sequence[str]
) -> str | None:
    """The reason why a policy is not signed by one of `keys`; None if it is."""
    if signature is None:
        return "it is not signed"
    if signature.key not in keys:
        return f"it is signed by {signature.key[:20]}..., whom nobody trusts here"
    return None if verifies(value, signature) else "it has changed since it was signed"


def verifies(value: Mapping[str, Any], signature: Signature) -> bool:
    """Whether a signature fits the policy's JSON value and the public key that it names."""
    public = public_key_of(signature.key)
    from cryptography.exceptions import InvalidSignature  # optional: most policies are not signed

    try:
        public.verify(bytes.fromhex(signature.value), _message(value))
    except InvalidSignature:
        return False
    return True


def public_key_of(text: str) -> Any:
    """Parse a public key, "ed25519:" and 64 hex digits. Raises ConfigError on anything else."""
    ed25519, _ = _ed25519()
    if not _KEY.fullmatch(text):
        raise ConfigError(
            f"{text[:80]!r} is no public key",
            'expected "ed25519:" and 64 hex digits, as demur sign prints',
        )
    return ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(text.removeprefix(PREFIX)))


def _message(value: Mapping[str, Any]) -> bytes:
    return _DOMAIN + digest_json(value).encode()


def _named(public: Any) -> str:
    _, serialization = _ed25519()
    raw = public.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return f"{PREFIX}{raw.hex()}"


def _ed25519() -> tuple[Any, Any]:
    """Import ed25519 and serialization of `cryptography`. Raises MissingDependency without it."""
    try:
        from cryptography.hazmat.primitives import serialization  # optional, as above
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ModuleNotFoundError as e:
        if (e.name or "").partition(".")[0] != "cryptography":
            raise  # installed, and broken: another story than a missing package
        raise MissingDependency(
            "signatures of policies need cryptography", "pip install 'demur[sign]'"
        ) from None
    return ed25519, serialization
