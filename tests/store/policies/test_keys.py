from datetime import UTC, datetime, timedelta

import pytest

from demur.base.errors import ConfigError
from demur.core.access import Tenant
from demur.store.policies.keys import ApiKey, KeyProblem, Tenants, authenticate, digest_of_key

NOW = datetime(2030, 1, 1, tzinfo=UTC)
ACME, OTHER = (
    Tenant(name=n, policies=(p, "shared")) for n, p in (("acme", "default"), ("other", "careful"))
)


def key(tenant, secret, expires=None):
    return ApiKey(tenant=tenant, label=secret[:2], sha256=digest_of_key(secret), expires=expires)


OLD = key(ACME, "an old key", NOW)
NEW = key(ACME, "a new key", NOW + timedelta(seconds=1))
KEYS = (OLD, NEW, key(OTHER, "the other's key"))


def test_a_key_names_its_tenant_and_several_work_side_by_side():
    assert authenticate(KEYS, "a new key", NOW) is NEW
    assert authenticate(KEYS, "an old key", NOW - timedelta(seconds=1)) is OLD
    found = authenticate(KEYS, "the other's key", NOW)
    assert isinstance(found, ApiKey)
    assert found.tenant is OTHER


@pytest.mark.parametrize("presented", ["", None])
def test_no_key_is_missing(presented):
    assert authenticate(KEYS, presented, NOW) == KeyProblem(reason="missing")


@pytest.mark.parametrize(
    "presented", ["a new kez", "A new key", "a new key ", OLD.sha256, "\ud800", "x" * 100_000]
)
def test_a_wrong_key_is_unknown_even_if_it_is_a_stored_hash(presented):
    assert authenticate(KEYS, presented, NOW) == KeyProblem(reason="unknown")
    assert authenticate((), presented, NOW) == KeyProblem(reason="unknown")


def test_a_key_expires_at_the_stated_moment_and_the_log_may_say_which():
    assert authenticate(KEYS, "an old key", NOW) == KeyProblem(reason="expired", key=OLD)


def test_what_is_printed_of_a_key_holds_no_hash():
    assert OLD.sha256 not in repr(authenticate(KEYS, "an old key", NOW))


def test_tenants_name_the_policies_they_need():
    everyone = Tenants(tenants=(ACME, OTHER), keys=KEYS)
    assert everyone.defaults == {"default", "careful"}
    everyone.require_policies(["default", "careful", "shared", "another"])
    with pytest.raises(ConfigError, match="'other' names policy 'careful'"):
        everyone.require_policies(["default", "shared"])
