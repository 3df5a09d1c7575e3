"""demur sign and demur verify on a run of the fake engine."""

import json
import shutil

import pytest

from demur.store.policies.policy_file import read_policy
from demur.store.policies.trust import Trust
from demur.store.run import RunFolder


@pytest.fixture
def run(made_run, tmp_path, demur):
    """A copy of the finished run, with a certified promise."""
    root = shutil.copytree(made_run, tmp_path / "run")
    assert demur("calibrate", root, "--goal", "false_refusal <= 0.25").code == 0
    return root


def test_a_key_is_made_a_policy_signed_and_the_signature_believed(demur, run, tmp_path):
    key, out = tmp_path / "ops.pem", tmp_path / "signed.json"
    made = demur("sign", "--new-key", key)
    assert made.code == 0
    public = made.out.strip()
    assert "PRIVATE" not in made.out + made.err
    assert demur("sign", run, "--key", key).code == 2  # a run's own policy stays as the run made it
    assert demur("sign", run, "--key", key, "--out", out).code == 0
    assert [p.status for p in read_policy(out, Trust(keys=(public,))).promises] == ["certified"]
    told = demur("verify", out, run, "--trusted", public, "--json")
    assert told.code == 0
    value = json.loads(told.out)
    assert value["verified"] is True
    assert value["promises"][0]["counted"]["of"] > 50
    assert value["promises"][0]["bound"] <= 0.25
    stranger = demur("sign", "--new-key", tmp_path / "other.pem").out.strip()
    assert demur("verify", out, run, "--trusted", stranger).code == 3


def test_nobody_signs_a_policy_that_was_edited_or_without_a_key(demur, run, tmp_path):
    edited = tmp_path / "edited.json"
    value = json.loads(RunFolder(run).policy.read_text())
    value["categories"][0]["threshold"] = 0.99
    edited.write_text(json.dumps(value))
    result = demur("sign", edited, "--new-key", tmp_path / "ops.pem")
    assert (result.code, "not certified" in result.err) == (2, True)
    for arguments in (
        (),
        (edited,),
        ("--key", tmp_path / "ops.pem"),
        (edited, "--key", "a", "--new-key", "b"),
    ):
        assert demur("sign", *arguments).code == 2


def test_verify_says_what_does_not_follow_and_exits_with_3(demur, run, tmp_path):
    assert demur("verify", run, run).code == 0
    policy = RunFolder(run).policy
    value = json.loads(policy.read_text())
    value["promises"][0]["rate"] = {"hits": 0, "of": 100_000}
    (tmp_path / "invented.json").write_text(json.dumps(value))
    result = demur("verify", tmp_path / "invented.json", run)
    assert result.code == 3
    assert "it says 0 errors of 100000 rows" in result.err
    assert demur("verify", tmp_path / "absent.json", run).code == 2
    assert demur("verify", policy, tmp_path / "absent").code == 2


def test_a_policy_that_promises_nothing_is_not_verified(demur, made_run):
    result = demur("verify", made_run, made_run)
    assert (result.code, "nothing to verify" in result.err) == (3, True)


def test_commands_say_that_a_promise_does_not_count(demur, run, tmp_path):
    edited = tmp_path / "edited.json"
    value = json.loads(RunFolder(run).policy.read_text())
    value["categories"][0]["threshold"] = 0.99
    edited.write_text(json.dumps(value))
    scores = RunFolder(run).scores("test")
    for arguments in (
        ("decide", "--policy", edited, "--scores", scores),
        ("explain", edited),
        ("diff", edited, run, "--scores", scores),
    ):
        result = demur(*arguments)
        assert "false_refusal is not certified" in result.err, arguments


def test_a_policy_of_another_name_is_verified_by_its_own_calibration(demur, run, tmp_path):
    assert demur("calibrate", run, "--goal", "false_refusal <= 0.3", "--name", "lenient").code == 0
    lenient = RunFolder(run).named("lenient").policy
    assert demur("verify", lenient, run).code == 0
    shutil.copy(lenient, tmp_path / "copy.json")
    assert demur("verify", tmp_path / "copy.json", run).code == 0
    assert demur("verify", run, run).code == 0
