"""Fixtures of the server's tests."""

import pytest

from tests.server.live_server import folder_of, policy, serving, tenants_file


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """A server without keys, with two policies; safety may be moved within limits in `default`."""
    folder = folder_of(
        tmp_path_factory.mktemp("policies"),
        policy(limits=(0.3, 0.9)),
        policy("strict", 0.01, locked=True),
    )
    with serving(folder) as server:
        yield server


@pytest.fixture(scope="module")
def keyed(tmp_path_factory):
    """A server with three tenants."""
    root = tmp_path_factory.mktemp("keyed")
    folder = folder_of(
        root / "policies", policy(limits=(0.3, 0.9)), policy("strict", 0.01, locked=True)
    )
    with serving(folder, tenants_file(root / "tenants.toml")) as server:
        yield server
