"""A promise and what it speaks of: any change of one takes the other away."""

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demur.base.errors import ArtifactError, ConfigError, PolicyError
from demur.core.calibrator import Fitted
from demur.core.maps.multiclass import Temperature
from demur.core.policy import CurvePoint, DoubtRule
from demur.core.rates import Rate, Slice
from demur.store.policies.folder import read_folder, reload
from demur.store.policies.policy_file import (
    bind_promises,
    policy_digest,
    policy_to_json,
    read_policy,
    write_policy,
    write_signed,
)
from demur.store.policies.signature import new_private_key
from demur.store.policies.trust import Trust
from tests.builders import certified, promise, taxonomy


def statuses(found):
    return [p.status for p in found.promises]


@pytest.fixture
def path(tmp_path):
    write_policy(tmp_path / "policy.json", certified())
    return tmp_path / "policy.json"


def edit(path, **change):
    """Change some values of a policy file by their dotted names."""
    value = json.loads(path.read_text())
    for name, new in change.items():
        *way, last = name.split("__")
        at = value
        for part in way:
            at = at[int(part) if part.isdigit() else part]
        at[last] = new
    path.write_text(json.dumps(value))


def test_a_promise_comes_back_certified_with_the_policy_that_it_speaks_of(path):
    assert read_policy(path) == certified()
    assert read_policy(path).promises[0].digest.startswith("sha256:")


SPOKEN_OF = {
    "categories__0__threshold": 0.99,
    "categories__1__threshold": "never",
    "categories__0__active": False,
    "categories__0__bias": 0.5,
    "categories__1__override": "suppress",
    "categories__0__locked": True,
    "rule": "any",
    "calibrator": {"kind": "temperature"},
    "taxonomy__categories__0__description": "another",
    "taxonomy__name": "another",
    "fingerprint__model_digest": "another",
    "fingerprint__dtype": "bfloat16",
    "fingerprint": None,
    "promises__0__risk": "missed_refusal",
    "promises__0__level": 0.01,
    "promises__0__confidence": 0.99,
    "promises__0__rate": {"hits": 0, "of": 100_000},
    "promises__0__data_digest": "sha256:others",
    "promises__0__method": "trust me",
    "promises__0__on_failure": "hard_only",
    "promises__0__digest": "sha256:0",
}


@pytest.mark.parametrize("name", SPOKEN_OF)
def test_any_change_of_what_a_promise_speaks_of_takes_it_away(path, name):
    change = SPOKEN_OF[name]
    if name == "calibrator":
        other = certified(
            calibrator=Fitted(tokens=taxonomy(2).tokens, map=Temperature(temperature=0.5))
        )
        change = policy_to_json(other)["calibrator"]
    edit(path, **{name: change})
    found = read_policy(path)
    assert statuses(found) == ["not certified"]
    assert "digest" in found.promises[0].fault
    with pytest.raises(PolicyError, match="not certified"):
        read_policy(path, Trust(otherwise="error"))


@pytest.mark.parametrize(
    "change",
    [
        {"name": "other"},
        {"categories__0__on_refuse": "No."},
        {"sensitivities": {"strict": {"safety": 0.1}}},
    ],
)
def test_what_no_decision_depends_on_may_change_under_a_promise(path, change):
    edit(path, **change)
    assert statuses(read_policy(path)) == ["certified"]


def test_an_invented_promise_counts_for_nothing(path):
    value = json.loads(path.read_text())
    invented = {
        **value["promises"][0],
        "rate": {"hits": 0, "of": 100_000},
        "method": "trust me",
        "level": 0.001,
    }
    del invented["digest"]
    path.write_text(json.dumps(value | {"promises": [*value["promises"], invented]}))
    assert statuses(read_policy(path)) == ["certified", "not certified"]


def test_a_file_of_an_older_version_is_read_and_keeps_its_digest(path):
    edit(path, promises__0__digest=None)
    old = read_policy(path)
    assert statuses(old) == ["not certified"]
    value = json.loads(path.read_text())
    del value["promises"][0]["digest"]
    path.write_text(json.dumps(value))
    assert policy_to_json(read_policy(path)) == value
    assert policy_digest(read_policy(path)) == policy_digest(old)


def test_writing_and_binding_again_does_not_make_a_promise_of_a_changed_file(path, tmp_path):
    edit(path, categories__0__threshold=0.99)
    write_policy(tmp_path / "again.json", bind_promises(read_policy(path)))
    assert statuses(read_policy(tmp_path / "again.json")) == ["not certified"]


def test_a_policy_with_other_thresholds_carries_no_promise():
    assert certified().with_thresholds({"safety": 0.9}).promises == ()


@given(
    threshold=st.floats(0, 1) | st.just(math.inf), active=st.booleans(), hits=st.integers(0, 400)
)
def test_a_promise_is_certified_of_exactly_one_policy(tmp_path_factory, threshold, active, hits):
    path = tmp_path_factory.getbasetemp() / "bound.json"
    write_policy(path, certified())
    threshold_text = "never" if math.isinf(threshold) else threshold
    edit(
        path,
        categories__0__threshold=threshold_text,
        categories__1__active=active,
        promises__0__rate__hits=hits,
    )
    same = (threshold, active, hits) == (0.3, True, 2)
    assert statuses(read_policy(path)) == ["certified" if same else "not certified"]


def leaves(value, way=()):
    """The place of every value of a file that is no list or object, and of every empty one."""
    inside = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    found = [leaf for key, v in inside for leaf in leaves(v, (*way, key))]
    return found or [way]


def mutations(value):
    """Other values that somebody might put in a value's place."""
    if isinstance(value, bool):
        return [not value, None]
    if isinstance(value, int | float):
        return [value + 1, value / 2, -value - 1, 0, 1e-9, None, str(value), [value], 10**400]
    if isinstance(value, str):
        return [f"{value}x", value[:-1], "", None, 0, "never", "certified"]
    return [0, "x", [0], {"x": 0}] if value is None else [None, 0, "x"]


def full():
    """A certified policy with everything that a file can hold."""
    rates = Rate(hits=1, of=9)
    point = CurvePoint(threshold=0.5, refusal_rate=rates, false_refusal=rates, missed_refusal=rates)
    mix = (Slice(facet="kind", name="benign", rate=rates),)
    made = certified(
        calibrator=Fitted(tokens=taxonomy(2).tokens, map=Temperature(temperature=0.5)),
        doubt=DoubtRule(most_leftover=0.2, then="error"),
        promises=(replace(promise(), mix=mix, rows="sha256:ids"),),
    )
    categories = (
        replace(made.categories[0], limits=(0.1, 0.9), curve=(point,), on_refuse="No."),
        made.categories[1],
    )
    return bind_promises(replace(made, categories=categories))


# no decision depends on it
FREE = ("name", "on_refuse", "translations", "limits", "curve", "sensitivities", "format")


def test_no_change_of_one_value_of_a_file_leaves_a_promise_of_other_decisions_certified(tmp_path):
    whole, tried, kept = policy_to_json(full()), 0, set()
    path = tmp_path / "mutated.json"
    for way in leaves(whole):
        original = whole
        for key in way:
            original = original[key]
        for other in mutations(original):
            value = json.loads(json.dumps(whole))
            at = value
            for key in way[:-1]:
                at = at[key]
            at[way[-1]] = other
            path.write_text(json.dumps(value))
            tried += 1
            try:
                found = read_policy(path)
            except PolicyError:
                continue
            same = policy_to_json(found) == whole  # such as "0.3" for 0.3
            if not same and statuses(found) == ["certified"]:
                kept.add(
                    next(key for key in way if isinstance(key, str) and key in (*FREE, *whole))
                )
                assert {key for key in way if key in FREE}, (way, other)
    assert tried > 300
    assert kept <= {"name", "categories", "sensitivities"}


# folders


def test_thresholds_set_by_hand_in_a_folder_are_served_without_a_promise_or_not_at_all(path):
    plain, strict = read_folder(path), read_folder(path, trust=Trust(otherwise="error"))
    edit(path, categories__0__threshold=0.99)
    (live,) = reload(plain)[0].policies.values()
    assert (live.policy.categories[0].threshold, statuses(live.policy)) == (0.99, ["not certified"])
    kept, changes = reload(strict)
    assert [p.policy.categories[0].threshold for p in kept.policies.values()] == [0.3]
    assert [c.kind for c in changes] == ["rejected"]


# signatures


@pytest.fixture
def key(tmp_path):
    return tmp_path / "key.pem", new_private_key(tmp_path / "key.pem")


def test_a_signed_policy_counts_where_its_key_is_trusted_and_its_digest_stays(path, key, tmp_path):
    file, public = key
    write_signed(path, read_policy(path), file)
    assert statuses(read_policy(path, Trust(keys=(public,)))) == ["certified"]
    assert policy_digest(read_policy(path)) == policy_digest(certified())
    stranger = new_private_key(tmp_path / "other.pem")
    assert statuses(read_policy(path, Trust(keys=(stranger,)))) == ["not certified"]
    assert statuses(read_policy(path, Trust(keys=(stranger, public)))) == ["certified"]


def test_an_unsigned_policy_is_not_certified_or_refused_where_keys_are_trusted(path, key):
    unsigned = read_policy(path, Trust(keys=(key[1],)))
    assert statuses(unsigned) == ["not certified"]
    assert "not signed" in unsigned.promises[0].fault
    with pytest.raises(PolicyError, match="not signed"):
        read_policy(path, Trust(keys=(key[1],), otherwise="error"))


def test_an_editor_who_makes_the_digest_again_is_stopped_by_the_signature(path, key):
    file, public = key
    write_signed(path, read_policy(path), file)
    signature = json.loads(path.read_text())["signature"]
    forged = bind_promises(
        replace(certified(), promises=(replace(promise(), rate=Rate(hits=0, of=100_000)),))
    )
    path.write_text(json.dumps(policy_to_json(forged) | {"signature": signature}))
    assert statuses(read_policy(path)) == ["certified"]  # a digest alone is no secret
    found = read_policy(path, Trust(keys=(public,)))
    assert statuses(found) == ["not certified"]
    assert "since it was signed" in found.promises[0].fault


@pytest.mark.parametrize("change", [{"name": "other"}, {"categories__0__on_refuse": "No."}])
def test_a_signature_covers_the_whole_file(path, key, change):
    write_signed(path, read_policy(path), key[0])
    edit(path, **change)
    assert statuses(read_policy(path, Trust(keys=(key[1],)))) == ["not certified"]


def test_a_private_key_is_its_owners_alone_and_is_never_overwritten(key):
    file, _ = key
    assert file.stat().st_mode & 0o777 == 0o600
    before = file.read_bytes()
    with pytest.raises(ArtifactError, match=r"key\.pem"):
        new_private_key(file)
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    "text", ["", "no key", "-----BEGIN PRIVATE KEY-----\nMAo=\n-----END PRIVATE KEY-----\n"]
)
def test_a_file_without_a_private_key_signs_nothing(path, tmp_path, text):
    (tmp_path / "bad.pem").write_text(text)
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=r"bad\.pem"):
        write_signed(path, read_policy(path), tmp_path / "bad.pem")
    assert path.read_bytes() == before


@pytest.mark.parametrize("key_text", ["", "ed25519:12", "rsa:" + "0" * 64, "ed25519:" + "g" * 64])
def test_a_trusted_key_that_is_none_is_refused(key_text):
    with pytest.raises(ConfigError, match="public key"):
        Trust(keys=(key_text,))
