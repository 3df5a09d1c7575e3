"""Verifying policies against the run that made them: whatever was edited, it does not follow from
the rows.
"""

import json
import shutil
from dataclasses import replace

import pytest
from tests.fake_run import engine_for, examples, prepare

from demur.base.errors import ArtifactError
from demur.core.rates import Rate, upper_bound
from demur.stages import calibrate, verify
from demur.stats.evidence import rows_digest
from demur.store.policies.policy_file import bind_promises, read_policy, write_policy
from demur.store.policies.trust import DIGESTS_ONLY
from demur.store.rows import read_examples
from demur.store.run import RunFolder

GOALS = {
    "one": {"goal": "false_refusal <= 0.2"},
    "other side": {"goal": "missed_refusal <= 0.6"},
    "two": {"goal": "false_refusal <= 0.25; missed_refusal <= 0.6", "seed": 3},
    "path": {"goal": "false_refusal <= 0.25", "method": "path", "seed": 5},
    "anytime": {"goal": "false_refusal <= 0.3", "method": "anytime"},
    "anytime, both sides": {
        "goal": "false_refusal <= 0.5; missed_refusal <= 0.7",
        "method": "anytime",
        "seed": 2,
    },
    "budgets": {"goal": "false_refusal <= 0.4", "method": "budgets"},
    "calibrated": {"goal": "false_refusal <= 0.3", "calibrator": "temperature"},
    "slice": {"goal": "false_refusal[kind=benign] <= 0.3"},
    "rate": {"goal": "refusal_rate <= 0.8"},
    "locked": {"goal": "false_refusal[safety] <= 0.1", "locked": ("safety",)},
    "forced": {"goal": "missed_refusal <= 0.6", "override": {"safety": "force"}},
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    rows = examples()
    return prepare(tmp_path_factory.mktemp("run"), rows, engine_for(rows, sharpness=4.0))


@pytest.fixture
def folder(prepared, tmp_path):
    return RunFolder(shutil.copytree(prepared.root, tmp_path / "run"))


def certified(folder, **settings):
    from demur.core.taxonomy import coconot

    return calibrate.run(calibrate.Config(confidence=0.9, **settings), coconot(), folder)


def faults(folder, path=None):
    _, found = verify.run(path or folder.policy, folder, DIGESTS_ONLY)
    assert found
    return [fault for v in found for fault in v.faults]


@pytest.mark.parametrize("name", GOALS)
def test_what_calibrate_certifies_follows_from_its_run(folder, name):
    policy = certified(folder, **GOALS[name])
    assert all(p.rows is not None for p in policy.promises)
    assert faults(folder) == []
    _, found = verify.run(folder.policy, folder, DIGESTS_ONLY)
    assert [v.counted.rate for v in found] == [p.rate for p in policy.promises]
    assert [rows_digest(v.counted.ids) for v in found] == [p.rows for p in policy.promises]


@pytest.fixture(scope="module")
def popular(tmp_path_factory):
    """A run of which every seventh row stands for nine requests."""
    rows = [replace(e, count=9 if n % 7 == 0 else 1) for n, e in enumerate(examples())]
    return prepare(tmp_path_factory.mktemp("run"), rows, engine_for(rows, sharpness=4.0))


@pytest.mark.parametrize("name", ["path", "calibrated", "anytime"])
def test_promises_beside_popular_prompts_follow_from_the_run(popular, tmp_path, name):
    folder = RunFolder(shutil.copytree(popular.root, tmp_path / "run"))
    policy = certified(folder, **GOALS[name])
    (promise,) = policy.promises
    assert promise.rows is not None
    assert faults(folder) == []
    read = read_examples(folder.split("calibrate"))
    answerable = [e.count for e in read if e.expected == "respond"]
    # requests and not rows, and not all of them where some teach
    (_, (found,)) = verify.run(folder.policy, folder, DIGESTS_ONLY)
    tested = set(found.counted.ids)
    assert sum(e.id in tested and e.expected == "respond" for e in read) < promise.rate.of
    assert (promise.rate.of == sum(answerable)) == (name == "anytime")


def test_a_forger_who_makes_the_digest_again_is_found_out(folder, tmp_path):
    policy = certified(folder, **GOALS["one"])
    (promise,) = policy.promises
    thresholds = tuple(replace(c, threshold=0.99) for c in policy.categories)
    forgeries = {
        "the run has": replace(
            policy, promises=(replace(promise, rate=Rate(hits=0, of=100_000), digest=None),)
        ),
        "errors of": replace(
            policy, categories=thresholds, promises=(replace(promise, digest=None),)
        ),
        "allow": replace(
            policy,
            promises=(replace(promise, goal=replace(promise.goal, level=0.001), digest=None),),
        ),
        "other rows": replace(
            policy, promises=(replace(promise, data_digest="sha256:0", digest=None),)
        ),
        "than those it names": replace(
            policy, promises=(replace(promise, rows="sha256:0", digest=None),)
        ),
        "no level": replace(policy, promises=(replace(promise, confidence=None, digest=None),)),
    }
    for said, forged in forgeries.items():
        write_policy(tmp_path / "forged.json", bind_promises(forged))
        assert any(said in fault for fault in faults(folder, tmp_path / "forged.json")), said


def test_an_edited_policy_and_one_of_another_calibration_do_not_follow(folder, tmp_path):
    certified(folder, **GOALS["one"])
    value = json.loads(folder.policy.read_text())
    value["categories"][0]["threshold"] = 0.99
    (tmp_path / "edited.json").write_text(json.dumps(value))
    assert any("digest" in fault for fault in faults(folder, tmp_path / "edited.json"))
    shutil.copy(folder.policy, tmp_path / "one.json")
    certified(folder, goal="false_refusal <= 0.3", sources=("builtin",))
    assert read_policy(tmp_path / "one.json").promises[0].status == "certified"


def test_a_run_whose_rows_have_changed_verifies_nothing(folder):
    certified(folder, **GOALS["one"])
    rows = folder.split("calibrate").read_text().splitlines()
    folder.split("calibrate").write_text("\n".join(rows[:-1]) + "\n")
    with pytest.raises(ArtifactError, match="out of date"):
        faults(folder)


def test_a_runs_own_policy_edited_in_place_does_not_follow(folder):
    certified(folder, **GOALS["one"])
    value = json.loads(folder.policy.read_text())
    value["categories"][0]["threshold"] = 0.99
    folder.policy.write_text(json.dumps(value))
    assert any("digest" in fault for fault in faults(folder))


def test_a_run_without_a_calibration_is_named(prepared, tmp_path):
    with pytest.raises(ArtifactError, match="calibrate"):
        verify.run(prepared.policy, RunFolder(tmp_path), DIGESTS_ONLY)


def test_attempts_by_now_are_named_and_a_ledger_that_knows_fewer_is_a_fault(folder):
    certified(folder, goal="false_refusal <= 0.2")
    policy = certified(folder, goal="false_refusal <= 0.25")
    _, (found,) = verify.run(folder.policy, folder, DIGESTS_ONLY)
    assert not found.faults
    assert found.attempts == policy.promises[0].attempts
    assert (found.attempts.count, found.attempts.confidence) == (2, 0.8)
    folder.ledger.unlink()
    assert faults(folder) == ["it counts 2 attempts on its rows, the ledger of the run 0"]


def test_a_promise_that_holds_for_one_look_only_does_not_follow_as_one_for_every_look(folder):
    """Its counts are cut to those that the test of one look would pass."""
    policy = certified(folder, goal="false_refusal <= 0.3", method="anytime")
    (promise,) = policy.promises
    level = upper_bound(promise.rate.hits, promise.rate.of, 0.1) + 1e-4
    assert level < promise.level
    goal = replace(promise.goal, level=level, text=f"false_refusal <= {level!r}")
    forged = replace(policy, promises=(replace(promise, goal=goal, digest=None),))
    write_policy(folder.policy, bind_promises(forged))
    assert any("these counts allow" in fault for fault in faults(folder))
