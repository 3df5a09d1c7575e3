"""demur sign: an operator's word for a policy, by an Ed25519 key."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from demur.base.errors import ConfigError, PolicyError
from demur.cli import options
from demur.cli.policies import policy_file
from demur.cli.terminal import note, print_json, result_console
from demur.store.policies.policy_file import policy_digest, read_policy, write_signed
from demur.store.policies.signature import new_private_key


def command(
    policy: Annotated[
        Path | None,
        typer.Argument(
            metavar="[POLICY]",
            help="A policy file, signed in place; or a calibrated run, with --out.",
        ),
    ] = None,
    *,
    key: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The private key to sign with.")
    ] = None,
    new_key: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Make a private key there first; its public key is printed."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the signed policy there instead.")
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Sign a policy, so that servers that trust the key believe its promises."""
    if new_key is not None and key is not None:
        raise ConfigError("--key and --new-key are two keys", "give one")
    # a key is made, or a policy is signed, or both
    if new_key is None and (policy is None or key is None):
        raise ConfigError(
            "there is nothing to sign, or nothing to sign with", "demur sign POLICY --key FILE"
        )
    # the key first: a policy may be signed with the key that was made by the same call
    said: dict[str, object] = {}
    if new_key is not None:
        said["public_key"] = new_private_key(new_key)
        note(
            f"private key: {new_key}; keep it off the server. Servers trust its public key: "
            "trusted_keys"
        )
    if policy is not None:
        said |= _signed(policy_file(policy), key or new_key or Path(), out)
    if as_json:
        print_json(said)
    elif "public_key" in said:
        result_console().out(said["public_key"], highlight=False)


def _signed(path: Path, key: Path, out: Path | None) -> dict[str, object]:
    """Sign one policy. Raises PolicyError if a promise of it is not certified: a signature would
    vouch for it.
    """
    # In a run the receipt holds the digest of the file, which a signature would change.
    if (path.parent / "made.json").exists() and out is None:
        raise ConfigError(
            f"{path} is a run's own: signed there, it is not what the run made", "give --out FILE"
        )
    policy = read_policy(path)  # compares the digests of promises
    for promise in policy.promises:
        if promise.fault is not None:
            raise PolicyError(
                f"{path}: {promise.risk} is not certified: {promise.fault}",
                "calibrate again, then sign",
            )
    signature = write_signed(out or path, policy, key)
    note(f"signed {policy.name!r} {policy_digest(policy)[:19]} by {signature.key}: {out or path}")
    return {
        "policy": policy.name,
        "digest": policy_digest(policy),
        "key": signature.key,
        "file": str(out or path),
    }
