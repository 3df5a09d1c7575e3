"""The calibrate stage: a goal becomes a policy, on rows that training never saw."""

import json
from dataclasses import replace

import pytest
from tests.fake_run import engine_for, examples, prepare

from demur.core.errors import DataError, GoalError, GoalInfeasible, PolicyError, TaxonomyError
from demur.core.policy import NEVER
from demur.core.taxonomy import coconot
from demur.stages import calibrate
from demur.store.files import digest_json
from demur.store.policy_file import read_policy
from demur.store.rows import read_examples, write_examples


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    rows = examples(every=2)
    return prepare(tmp_path_factory.mktemp("run"), rows, engine_for(rows))


def run(folder, **settings):
    return calibrate.run(calibrate.Config(**settings), coconot(), folder)


def test_the_policy_on_disk_is_the_policy_returned_with_fingerprint_and_curves(folder):
    policy = run(folder, goal="f1 max", name="acme")
    assert read_policy(folder.policy) == policy
    assert policy.name == "acme"
    assert policy.fingerprint is not None
    assert all(category.curve for category in policy.categories)
    assert len(policy.promises) == 1


@pytest.mark.parametrize(
    "goal",
    [
        "natural",
        "f1 max",
        "f0.5 max",
        "youden max",
        "refusal_rate = 0.10",
        "refusal_rate[safety] = 0.05",
        "cost: false=1 missed=5",
        "false_refusal <= 0.10",
    ],
)
def test_every_goal_gives_a_policy_that_says_what_it_promises(folder, goal):
    policy = run(folder, goal=goal)
    promise = policy.promises[0]
    assert promise.status == ("certified" if "<=" in goal else "measured")
    assert promise.method
    assert promise.data_digest.startswith("sha256:")


def test_a_finished_calibration_is_read_back_and_another_goal_is_another_policy(folder):
    first = run(folder, goal="youden max")
    stamp = folder.policy.stat().st_mtime_ns
    assert run(folder, goal="youden max") == first
    assert folder.policy.stat().st_mtime_ns == stamp
    assert run(folder, goal="cost: false=1 missed=50") != first


def test_inactive_locked_limited_and_templated_categories_are_kept(folder):
    policy = run(
        folder,
        goal="refusal_rate[safety] = 0.05",
        inactive=("humanizing",),
        locked=("safety",),
        limits={"incomplete": (0.2, NEVER)},
        on_refuse={"safety": "No."},
    )
    assert not policy.category("humanizing").active
    assert policy.category("safety").locked
    assert policy.category("incomplete").limits == (0.2, NEVER)
    assert policy.category("safety").on_refuse == "No."


def test_a_promise_that_so_few_rows_cannot_keep_is_a_result_with_the_rows_it_needs(folder):
    with pytest.raises(GoalInfeasible) as error:
        run(folder, goal="false_refusal <= 0.0001")
    assert error.value.exit_code == 3
    assert "29956" in str(error.value).replace(",", "")  # smallest n with 0.9999^n <= 0.05


def test_an_unknown_category_is_named_with_a_suggestion(folder):
    with pytest.raises(TaxonomyError, match="safty"):
        run(folder, locked=("safty",))


def test_a_goal_that_cannot_be_read_shows_where(folder):
    with pytest.raises(GoalError, match=r"\^"):
        run(folder, goal="false_refusal <= many")


@pytest.mark.parametrize("shared", ["prompt", "group"])
def test_a_calibrate_split_that_overlaps_training_is_refused(folder, tmp_path, shared):
    rows = examples(every=6)
    other = prepare(tmp_path, rows, engine_for(rows))
    train, held = read_examples(other.split("train")), read_examples(other.split("calibrate"))
    if shared == "prompt":
        stolen = replace(held[0], id="stolen", split="train", group=None)
    else:
        stolen = replace(train[0], id="stolen", group=next(e.group for e in held if e.group))
    write_examples(other.split("train"), [*train, stolen])
    with pytest.raises(DataError, match="shares"):
        run(other, goal="youden max")


def test_a_damaged_policy_is_named_with_its_key(folder):
    run(folder, goal="f1 max")
    value = json.loads(folder.policy.read_text())
    value["ruel"] = value.pop("rule")
    folder.policy.write_text(json.dumps(value))
    with pytest.raises(PolicyError, match="ruel: unknown key") as error:
        read_policy(folder.policy)
    assert "'rule'" in error.value.hint
    assert digest_json(value).startswith("sha256:")
