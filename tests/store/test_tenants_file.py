from datetime import UTC, datetime, timedelta

import pytest

from demur.core.access import Tenant
from demur.core.errors import ConfigError
from demur.core.keys import ApiKey, KeyProblem, authenticate
from demur.store.tenants_file import key_block, read_tenants

NOW = datetime(2030, 1, 1, tzinfo=UTC)
TWO = """
[tenants.acme]
policies = ["default", "careful"]
may_override = true
requests_per_minute = 60

[tenants.operators]
policies = ["careful"]
sees_scores = true
"""


def read(tmp_path, text):
    path = tmp_path / "tenants.toml"
    path.write_text(text, encoding="utf-8")
    return read_tenants(path)


def test_tenants_have_the_rights_that_the_file_gives_them_and_no_others(tmp_path):
    tenants = read(tmp_path, TWO).tenants
    assert tenants == (
        Tenant(name="acme", policies=("default", "careful"), may_override=True, requests_per_minute=60),
        Tenant(name="operators", policies=("careful",), sees_scores=True),
    )


def test_keys_added_at_the_end_open_the_right_tenant_until_they_expire(tmp_path):
    text = TWO + key_block("acme", "first", "one", NOW) + key_block("operators", "only", "two")
    text += key_block("acme", "second", "three")
    keys = read(tmp_path, text).keys
    names = {k: authenticate(keys, k, NOW - timedelta(seconds=1)) for k in ("one", "two", "three")}
    assert {k: (found.tenant.name, found.label) for k, found in names.items() if isinstance(found, ApiKey)} == {
        "one": ("acme", "first"),
        "two": ("operators", "only"),
        "three": ("acme", "second"),
    }
    late = authenticate(keys, "one", NOW)
    assert isinstance(late, KeyProblem)
    assert late.reason == "expired"


@pytest.mark.parametrize(
    ("text", "says", "hint"),
    [
        ("", "tenants", ""),
        ("[tenants]\n", "tenants", ""),
        ("[tenants.a]\npolicies = []\n", "tenants.a.policies", ""),
        ("[tenants.a]\npolicy = ['x']\n", "tenants.a.policy: unknown key", "'policies'"),
        ("[tenants.a]\npolicies = ['x', 'x']\n", "policy 'x' occurs 2 times", "once"),
        ("[tenants.a]\npolicies = ['x']\nconcurrent = 0\n", "tenants.a.concurrent", ""),
        ("[tenants.a]\npolicies = ['x']\nmay_override = 'perhaps'\n", "tenants.a.may_override", ""),
        ("[tenants.'a b']\npolicies = ['x']\n", "tenants.a b", ""),
        ("[tenants.a]\npolicies = ['x']\n[[tenants.a.keys]]\nlabel = 'k'\n", "tenants.a.keys.0.sha256", ""),
        (
            "[tenants.a]\npolicies = ['x']\n" + key_block("a", "k", "1", NOW).replace("+00:00", ""),
            "tenants.a.keys.0.expires",
            "",
        ),
        (
            "[tenants.a]\npolicies = ['x']\n" + key_block("a", "k", "1") + key_block("a", "k", "2"),
            "key label 'k'",
            "once",
        ),
        (
            "[tenants.a]\npolicies = ['x']\n[tenants.b]\npolicies = ['x']\n"
            + key_block("a", "k", "1")
            + key_block("b", "k", "1"),
            "key hash",
            "once",
        ),
        ("[tenants.a\n", "is not TOML", ""),
    ],
)
def test_a_bad_file_names_file_key_and_remedy(tmp_path, text, says, hint):
    with pytest.raises(ConfigError) as e:
        read(tmp_path, text)
    assert str(tmp_path / "tenants.toml") in e.value.message
    assert says in e.value.message
    assert hint in e.value.hint
    assert e.value.hint


def test_a_key_pasted_where_its_hash_belongs_is_not_repeated_in_the_error(tmp_path):
    pasted = 'label = "backend"\nsha256 = "demur_secret"\n'
    with pytest.raises(ConfigError, match=r"tenants\.acme\.keys\.0\.sha256: String should match") as e:
        read(tmp_path, f"[tenants.acme]\npolicies = ['x']\n[[tenants.acme.keys]]\n{pasted}")
    assert "demur_secret" not in str(e.value)
    with pytest.raises(ConfigError) as e:
        read(tmp_path, "[tenants.acme]\npolicies = ['x']\nkeys = ['demur_secret']\n")
    assert "demur_secret" not in str(e.value)


@pytest.mark.parametrize(("tenant", "label"), [("a.b", "k"), ("", "k"), ("a", 'k"\nmay_override = true'), ("a", "")])
def test_a_name_or_label_that_would_break_the_file_gets_no_key(tenant, label):
    with pytest.raises(ConfigError, match="the new key"):
        key_block(tenant, label, "secret")
