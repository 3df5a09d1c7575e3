from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demur.base.errors import ConfigError
from demur.core.access import Tenant
from demur.store.policies.keys import ApiKey, KeyProblem, authenticate, digest_of_key
from demur.store.policies.tenants_file import key_block, read_tenants, reread_tenants

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
        Tenant(
            name="acme", policies=("default", "careful"), may_override=True, requests_per_minute=60
        ),
        Tenant(name="operators", policies=("careful",), sees_scores=True),
    )


def test_keys_added_at_the_end_open_the_right_tenant_until_they_expire(tmp_path):
    text = TWO + key_block("acme", "first", "one", NOW) + key_block("operators", "only", "two")
    text += key_block("acme", "second", "three")
    keys = read(tmp_path, text).keys
    names = {k: authenticate(keys, k, NOW - timedelta(seconds=1)) for k in ("one", "two", "three")}
    assert {
        k: (found.tenant.name, found.label)
        for k, found in names.items()
        if isinstance(found, ApiKey)
    } == {
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
        (
            "[tenants.a]\npolicies = ['x']\n[[tenants.a.keys]]\nlabel = 'k'\n",
            "tenants.a.keys.0.sha256",
            "",
        ),
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
    with pytest.raises(
        ConfigError, match=r"tenants\.acme\.keys\.0\.sha256: String should match"
    ) as e:
        read(tmp_path, f"[tenants.acme]\npolicies = ['x']\n[[tenants.acme.keys]]\n{pasted}")
    assert "demur_secret" not in str(e.value)
    with pytest.raises(ConfigError) as e:
        read(tmp_path, "[tenants.acme]\npolicies = ['x']\nkeys = ['demur_secret']\n")
    assert "demur_secret" not in str(e.value)


@pytest.mark.parametrize(
    ("tenant", "label"), [("a.b", "k"), ("", "k"), ("a", 'k"\nmay_override = true'), ("a", "")]
)
def test_a_name_or_label_that_would_break_the_file_gets_no_key(tenant, label):
    with pytest.raises(ConfigError, match="the new key"):
        key_block(tenant, label, "secret")


# cut off, damaged, gone


WHOLE = (
    TWO + key_block("acme", "first", "one", NOW) + key_block("operators", "only", "two", NOW) + "\n"
)
AFTER = NOW + timedelta(seconds=1)
OLD_ORDER = f"""[tenants.acme]
policies = ["default"]
[[tenants.acme.keys]]
label = "first"
sha256 = "{digest_of_key("one")}"
expires = 2030-01-01T00:00:00Z
"""


def opened(tenants, key):
    return isinstance(authenticate(tenants.keys, key, AFTER), ApiKey)


def test_no_beginning_of_a_file_made_by_demur_keys_opens_an_expired_key(tmp_path):
    sound = 0
    for size in range(len(WHOLE)):
        try:
            tenants = read(tmp_path, WHOLE[:size])
        except ConfigError:
            continue
        sound += 1
        assert not opened(tenants, "one")
        assert not opened(tenants, "two")
    assert sound  # such as one that ends before the first key


@given(data=st.data())
def test_a_file_of_the_old_order_cut_off_or_damaged_while_it_is_read_opens_nothing_new(
    tmp_path_factory, data
):
    path = tmp_path_factory.getbasetemp() / "tenants.toml"
    path.write_text(OLD_ORDER)
    before = read_tenants(path)
    size = data.draw(st.integers(0, len(OLD_ORDER) - 1))
    noise = data.draw(st.sampled_from([b"", b"\x00", b"\xff", b"[", b"a = " + b"9" * 5_000]))
    path.write_bytes(OLD_ORDER[:size].encode() + noise)
    found = reread_tenants(path, before, OLD_ORDER)
    assert found.fault is not None
    assert not opened(found.tenants, "one")
    assert set(found.tenants.keys) <= set(before.keys)


@given(
    st.binary(max_size=200)
    | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass"))
)
def test_no_bytes_raise_and_a_key_that_is_not_named_any_more_is_shut(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "tenants.toml"
    path.write_text(WHOLE)
    before = read_tenants(path)
    path.write_bytes(content)
    assert reread_tenants(path, before, WHOLE).tenants.keys == ()


def test_a_bad_file_keeps_the_keys_that_it_names_as_the_last_sound_one_had_them(tmp_path):
    path = tmp_path / "tenants.toml"
    path.write_text(WHOLE)
    before = read_tenants(path)
    commented = WHOLE.replace(
        f'sha256 = "{digest_of_key("two")}"', f'# sha256 = "{digest_of_key("two")}"'
    )
    path.write_text(commented.replace("may_override = true", "may_override = ture"))
    found = reread_tenants(path, before, WHOLE)
    assert [k.label for k in found.tenants.keys] == ["first"]
    path.write_text(WHOLE.replace("first", "renamed"))
    again = reread_tenants(path, found.tenants, found.whole)
    assert ([k.label for k in again.tenants.keys], again.fault) == (["renamed", "only"], None)


def test_a_file_that_loses_its_end_mark_is_not_taken(tmp_path):
    path = tmp_path / "tenants.toml"
    path.write_text(WHOLE)
    before = read_tenants(path)
    path.write_text(WHOLE.replace("# end", "").replace("60", "6000"))
    found = reread_tenants(path, before, WHOLE)
    assert "lost its last line" in found.fault.message
    assert found.tenants == before
