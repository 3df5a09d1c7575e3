"""demur calibrate with several goals."""

import json
import shutil

import pytest

from demur.store.policies.policy_file import read_policy
from demur.store.rows import read_examples
from demur.store.run import RunFolder


@pytest.fixture
def run(made_run, tmp_path):
    """A copy of the finished run, to be changed."""
    return shutil.copytree(made_run, tmp_path / "run")


def test_goals_may_be_repeated_and_each_gets_a_line(demur, run):
    result = demur(
        "calibrate",
        run,
        "--goal",
        "false_refusal <= 0.3",
        "--goal",
        "missed_refusal <= 0.6",
        "--goal",
        "f1 max",
    )
    assert result.code == 0
    assert "certified: false_refusal at 0.3 with 95% confidence" in result.err
    assert "certified: missed_refusal at 0.6 with 95% confidence" in result.err
    assert "measured: f1, no guarantee" in result.err


def test_goals_that_cannot_be_certified_exit_with_3_and_say_what_would_do(demur, run):
    before = RunFolder(run).policy.read_bytes()
    result = demur(
        "calibrate",
        run,
        "--goal",
        "false_refusal <= 0.3",
        "--goal",
        "missed_refusal[safety] <= 0.01",
    )
    assert result.code == 3
    assert (
        "'missed_refusal[safety] <= 0.01' blocks: about 368 rows of its kind would do" in result.err
    )
    assert RunFolder(run).policy.read_bytes() == before


def test_what_is_done_on_failure_is_the_callers_choice_and_on_record(demur, run):
    goals = ("--goal", "false_refusal <= 0.3", "--goal", "missed_refusal[safety] <= 0.01 soft")
    result = demur("calibrate", run, *goals, "--on-failure", "hard_only", "--json")
    assert result.code == 0
    promises = json.loads(result.out)["promises"]
    assert [(p["status"], p["on_failure"]) for p in promises] == [
        ("certified", "hard_only"),
        ("uncertified", "hard_only"),
    ]
    assert read_policy(RunFolder(run).policy).promises[1].status == "uncertified"


def test_every_setting_of_the_stage_can_be_given(demur, run):
    goals = ("--goal", "false_refusal <= 0.3")
    result = demur(
        "calibrate",
        run,
        *goals,
        "--set",
        "method=path",
        "--set",
        "seed=3",
        "--set",
        'locked=["safety"]',
    )
    assert result.code == 0
    assert "learned path" in result.err
    assert read_policy(RunFolder(run).policy).category("safety").locked
    result = demur("calibrate", run, *goals, "--set", "metod=path")
    assert result.code == 2
    assert "did you mean 'method'?" in result.err


def test_labels_by_hand_are_found_from_where_one_stands(demur, run, monkeypatch):
    rows = read_examples(RunFolder(run).split("calibrate"))[::2]
    lines = [json.dumps({"id": e.id, "label": e.label or "respond"}) for e in rows]
    (run.parent / "hands.jsonl").write_text("\n".join(lines), encoding="utf-8")
    monkeypatch.chdir(run.parent)
    result = demur(
        "calibrate", run, "--goal", "false_refusal <= 0.5", "--set", "human_labels=hands.jsonl"
    )
    assert result.code == 0
    assert "rows checked by hand" in result.err
