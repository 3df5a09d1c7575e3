import json
import shutil
import tomllib
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from demur.core.policy import Sensitivity
from demur.store.policies.keys import digest_of_key
from demur.store.policies.policy_file import read_policy, write_policy
from demur.store.policies.tenants_file import read_tenants
from demur.store.run import RunFolder

TENANTS = """
[tenants.acme]
policies = ["default", "careful"]
may_override = true

[tenants.small]
policies = ["careful"]
"""


@pytest.fixture
def place(made_run, tmp_path):
    """A folder of two policies, and tenants beside it."""
    default = read_policy(RunFolder(made_run).policy)
    careful = replace(
        default.with_thresholds({"humanizing": 0.5}),
        name="careful",
        categories=tuple(
            replace(
                c,
                locked=name == "safety",
                limits=(0.1, 0.9) if name == "humanizing" else None,
                threshold=0.5,
            )
            for name, c in zip(default.taxonomy.names, default.categories, strict=True)
        ),
        sensitivities=(
            Sensitivity(name="strict", thresholds=(("humanizing", 0.2), ("incomplete", 0.3))),
        ),
    )
    write_policy(tmp_path / "policies" / "default.json", default)
    write_policy(tmp_path / "policies" / "careful.json", careful)
    (tmp_path / "tenants.toml").write_text(TENANTS, encoding="utf-8")
    return tmp_path


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
