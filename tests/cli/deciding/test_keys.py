import json
import shutil
import tomllib
from datetime import UTC, datetime, timedelta

from demur.store.policies.keys import digest_of_key
from demur.store.policies.tenants_file import read_tenants


def test_keys_prints_lines_that_open_the_tenants_file_to_the_key_shown(demur, place):
    before = datetime.now(UTC)
    result = demur("keys", "acme", "--label", "backend", "--days", "30")
    assert result.code == 0
    key = result.err.split()[-1]
    assert key not in result.out
    path = shutil.copy(place / "tenants.toml", place / "more.toml")
    with path.open("a", encoding="utf-8") as file:
        file.write(result.out)
    (stored,) = read_tenants(path).keys
    assert (stored.tenant.name, stored.label, stored.sha256) == (
        "acme",
        "backend",
        digest_of_key(key),
    )
    assert timedelta(days=29, hours=23) < stored.expires - before < timedelta(days=30, hours=1)


def test_keys_are_never_the_same_and_speak_json(demur):
    made = [json.loads(demur("keys", "acme", "--json").out) for _ in range(2)]
    assert len({m["key"] for m in made}) == 2
    assert all(len(m["key"]) >= 40 for m in made)
    (row,) = tomllib.loads(made[0]["toml"])["tenants"]["acme"]["keys"]
    assert row["sha256"] == digest_of_key(made[0]["key"])


def test_keys_refuses_a_name_that_no_tenant_can_have(demur):
    result = demur("keys", "a b")
    assert result.code == 2
    assert "a b" in result.err
