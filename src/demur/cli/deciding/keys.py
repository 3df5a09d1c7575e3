"""demur keys: a new API key for a tenant. Only its hash is ever stored."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from demur.cli import options
from demur.cli.terminal import note, print_json, result_console
from demur.store.policies.tenants_file import key_block

PREFIX = "demur_"  # lets scanners for leaked secrets know it
RANDOM_BYTES = 32


def command(
    tenant: Annotated[
        str, typer.Argument(metavar="TENANT", help="Whose key it is: a table of the tenants file.")
    ],
    *,
    label: Annotated[
        str | None, typer.Option(help="What logs call the key. Default: the time.")
    ] = None,
    days: Annotated[
        int | None, typer.Option(min=1, help="Days until it expires. Default: it never does.")
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Make a key. Lines for the tenants file go to stdout; the key itself to stderr, once: keep
    it.
    """
    now = datetime.now(UTC)
    key = PREFIX + secrets.token_urlsafe(RANDOM_BYTES)
    expires = now + timedelta(days=days) if days else None
    # A label must be unique within a tenant, and two keys may be made in one second.
    block = key_block(tenant, label or f"{now:%Y-%m-%d %H:%M:%S.%f}", key, expires)
    if as_json:
        print_json({"key": key, "toml": block})
        return
    # stderr, so that `demur keys ... >> tenants.toml` adds the hash and never the key
    note(f"key of {tenant}, shown only now: {key}")
    result_console().out(block, highlight=False, end="")
