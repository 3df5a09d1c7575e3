"""The policies of a vLLM server, without vLLM."""

from dataclasses import replace

import pytest

from demur.base.errors import AccessError, ConfigError, PolicyError
from demur.core.fingerprint import Fingerprint
from demur.core.midway.monitor import AnswerSampling, Monitor
from demur.core.threshold import NEVER
from demur.engines.vllm.policies import PolicyRegistry, decode_policy
from demur.engines.vllm.policy_request import PolicyRequest
from demur.store.policies.policy_file import policy_digest, read_policy, write_policy, write_signed
from demur.store.policies.signature import new_private_key
from tests.builders import policy, with_category

MODEL = Fingerprint(
    model_digest="m",
    tokenizer_digest="t",
    template_digest="c",
    tokens=("[respond]", "[safety]", "[humanizing]"),
    token_ids=(5, 6, 7),
    dtype="float32",
)


def named(name, *, threshold=0.5, **fields):
    return replace(policy(2, thresholds=[threshold, 0.9], **fields), name=name, fingerprint=MODEL)


@pytest.fixture
def folder(tmp_path):
    write_policy(tmp_path / "a.json", named("strict", threshold=0.2))
    locked = with_category(with_category(named("lenient"), 0, locked=True), 1, limits=(0.5, 1.0))
    write_policy(tmp_path / "b.json", locked)
    return tmp_path


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def asked(shelf, name=None, digest=None, **thresholds):
    return decode_policy(
        shelf.effective(PolicyRequest(policy=name, digest=digest, thresholds=thresholds))
    )


def test_a_request_gets_the_policy_that_it_names(folder) -> None:
    shelf = PolicyRegistry(folder)
    assert asked(shelf, "strict") == named("strict", threshold=0.2)
    assert shelf.model == MODEL


def test_the_same_request_is_the_same_object_in_the_worker(folder) -> None:
    shelf = PolicyRegistry(folder)
    assert asked(shelf, "strict", safety=0.3) is asked(shelf, "strict", safety=0.3)


def test_a_request_without_a_policy_passes_gets_the_default_or_is_refused(folder) -> None:
    assert PolicyRegistry(folder).effective(PolicyRequest()) is None
    assert asked(PolicyRegistry(folder, default="strict")).name == "strict"
    with pytest.raises(AccessError, match="names no policy"):
        PolicyRegistry(folder, required=True).effective(PolicyRequest())


def test_thresholds_or_a_digest_without_a_policy_are_never_ignored(folder) -> None:
    shelf = PolicyRegistry(folder)
    for request in (PolicyRequest(thresholds={"safety": 0.5}), PolicyRequest(digest="sha256:0")):
        with pytest.raises(AccessError, match="names no policy"):
            shelf.effective(request)


def test_a_threshold_moves_within_what_the_policy_permits(folder) -> None:
    shelf = PolicyRegistry(folder)
    assert asked(shelf, "strict", safety=0.7).category("safety").threshold == 0.7
    for thresholds, message in (
        ({"safety": 0.7}, "locked"),
        ({"humanizing": 0.4}, "outside its limits"),
        ({"safty": 0.7}, "did you mean 'safety'"),
    ):
        with pytest.raises(AccessError, match=message):
            asked(shelf, "lenient", **thresholds)


def test_a_monitor_travels_with_its_policy_and_one_that_adds_up_is_refused(tmp_path) -> None:
    monitor = Monitor(thresholds=(0.5, NEVER), answers=AnswerSampling(most_tokens=64))
    adds_up = replace(monitor, thresholds=(3.0, NEVER), statistic="cusum")
    for name, watch in (("most", monitor), ("sum", adds_up)):
        write_policy(tmp_path / f"{name}.json", replace(named(name), monitor=watch))
    shelf = PolicyRegistry(tmp_path)
    assert asked(shelf, "most").monitor == monitor
    with pytest.raises(AccessError, match="keeps no sum"):
        asked(shelf, "sum")
    with pytest.raises(AccessError, match="keeps no sum"):
        PolicyRegistry(tmp_path, default="sum")
    with pytest.raises(PolicyError, match="stops no answer"):
        shelf.require_no_monitor("speculative decoding")


def test_an_unknown_policy_is_refused_with_the_nearest_name(folder) -> None:
    with pytest.raises(AccessError, match="did you mean 'strict'"):
        asked(PolicyRegistry(folder), "stricd")


def test_an_empty_name_is_no_way_around_the_default(folder) -> None:
    with pytest.raises(AccessError, match="no policy ''"):
        asked(PolicyRegistry(folder, default="strict"), "")


def test_a_digest_finds_a_new_version_at_once_and_still_finds_the_old_one(folder) -> None:
    shelf = PolicyRegistry(folder, clock=Clock())
    old, new = named("strict", threshold=0.2), named("strict", threshold=0.6)
    write_policy(folder / "a.json", new)
    assert asked(shelf, "strict") == old  # a second has not passed, and nobody asked for another
    assert asked(shelf, "strict", policy_digest(new)) == new
    assert asked(shelf, "strict") == new
    assert asked(shelf, "strict", policy_digest(old)) == old


def test_a_version_that_never_was_is_refused(folder) -> None:
    with pytest.raises(AccessError, match="not sha256:0"):
        asked(PolicyRegistry(folder), "strict", "sha256:0")
    with pytest.raises(AccessError, match="there is no policy 'other'"):
        asked(PolicyRegistry(folder), "other", policy_digest(named("strict", threshold=0.2)))


def test_a_changed_file_is_noticed_after_a_second(folder) -> None:
    clock = Clock()
    shelf = PolicyRegistry(folder, clock=clock)
    write_policy(folder / "a.json", named("strict", threshold=0.6))
    clock.now = 1.5
    assert asked(shelf, "strict").category("safety").threshold == 0.6


def test_a_bad_file_and_a_file_for_another_model_leave_the_old_policy(folder, caplog) -> None:
    # a command line in the same process may have raised the root logger's level
    caplog.set_level("WARNING")
    clock = Clock()
    shelf = PolicyRegistry(folder, clock=clock)
    for bad in (b"{", None):
        clock.now += 2
        if bad:
            (folder / "a.json").write_bytes(bad)
        else:
            write_policy(
                folder / "a.json",
                replace(named("strict"), fingerprint=replace(MODEL, dtype="bfloat16")),
            )
        assert asked(shelf, "strict").category("safety").threshold == 0.2
    assert "a.json: rejected" in caplog.text


def test_a_shelf_does_not_open_on_faults(folder, tmp_path_factory) -> None:
    with pytest.raises(ConfigError, match="DEMUR_POLICY = 'strickt'"):
        PolicyRegistry(folder, default="strickt")
    with pytest.raises(ConfigError, match="DEMUR_POLICIES is not set"):
        PolicyRegistry.from_environment({})
    with pytest.raises(ConfigError, match="DEMUR_REQUIRE_POLICY = 'yes'"):
        PolicyRegistry.from_environment(
            {"DEMUR_POLICIES": str(folder), "DEMUR_REQUIRE_POLICY": "yes"}
        )
    with pytest.raises(PolicyError, match="no policy"):
        PolicyRegistry(tmp_path_factory.mktemp("empty"))
    write_policy(
        folder / "c.json", replace(named("third"), fingerprint=replace(MODEL, dtype="bfloat16"))
    )
    with pytest.raises(PolicyError, match="made for another model: dtype differ"):
        PolicyRegistry(folder)
    nameless = tmp_path_factory.mktemp("nameless")
    write_policy(nameless / "a.json", replace(named("nameless"), fingerprint=None))
    with pytest.raises(PolicyError, match="names no model"):
        PolicyRegistry(nameless)


def test_the_environment_describes_a_shelf(folder) -> None:
    shelf = PolicyRegistry.from_environment(
        {"DEMUR_POLICIES": str(folder / "a.json"), "DEMUR_POLICY": "strict"}
    )
    assert asked(shelf).name == "strict"


def test_what_travels_decides_like_the_whole_policy_and_carries_nothing_else(folder) -> None:
    whole = with_category(named("strict"), 0, on_refuse="No.", translations=(("de", "Nein."),))
    write_policy(folder / "a.json", whole)
    sent = asked(PolicyRegistry(folder), "strict")
    assert sent == with_category(whole, 0, translations=())


def test_with_trusted_keys_the_plug_in_takes_signed_policies_only(folder, tmp_path_factory) -> None:
    key = tmp_path_factory.mktemp("keys") / "ops.pem"
    environment = {
        "DEMUR_POLICIES": str(folder),
        "DEMUR_TRUSTED_KEYS": (
            f"{new_private_key(key)}, {new_private_key(key.with_name('spare.pem'))}"
        ),
        "DEMUR_UNPROVEN": "error",
    }
    with pytest.raises(PolicyError, match="not signed"):
        PolicyRegistry.from_environment(environment)
    for path in folder.glob("*.json"):
        write_signed(path, read_policy(path), key)
    shelf = PolicyRegistry.from_environment(environment)
    assert asked(shelf, "strict").name == "strict"
    # unsigned: the old one stays in force
    write_policy(folder / "a.json", named("strict", threshold=0.99))
    shelf._read_at = -10.0
    assert asked(shelf, "strict").categories[0].threshold == 0.2
    for name, value in (("DEMUR_TRUSTED_KEYS", "nonsense"), ("DEMUR_UNPROVEN", "perhaps")):
        with pytest.raises(ConfigError, match=value):
            PolicyRegistry.from_environment({**environment, name: value})
