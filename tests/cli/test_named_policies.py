"""`calibrate --name` keeps several policies in a run, each with its own receipts, evaluation and report."""

import json
import shutil

import pytest

from demur.store.policy_file import read_policy
from demur.store.run import RunFolder


@pytest.fixture
def run(made_run, tmp_path):
    return shutil.copytree(made_run, tmp_path / "run")


def test_a_named_policy_stands_beside_the_runs_own_and_is_found_by_its_name(demur, run):
    own = (run / "calibrate" / "policy.json").read_bytes()
    made = demur("calibrate", run, "--name", "careful", "--goal", "false_refusal <= 0.3")
    assert made.code == 0, made.err
    assert (run / "calibrate" / "policy.json").read_bytes() == own
    careful = RunFolder(run).named("careful")
    assert careful.policy == run / "calibrate" / "careful" / "policy.json"
    assert read_policy(careful.policy).name == "careful"
    assert RunFolder(run).policy_names == ("careful",)
    assert "already done" in demur("calibrate", run, "--name", "careful", "--goal", "false_refusal <= 0.3").err
    explained = demur("explain", run, "--policy", "careful", "--json")
    assert json.loads(explained.out)["policy"] == "careful"
    decided = demur("decide", run, "--policy", "careful", "--scores", run / "score" / "test.parquet", "--json")
    assert decided.code == 0, decided.err


def test_names_that_mean_something_else_and_policies_that_are_not_there_are_named(demur, run):
    taken = demur("calibrate", run, "--name", "policies")
    assert (taken.code, "cannot be called 'policies'" in taken.err) == (2, True)
    assert demur("calibrate", run, "--name", "../out").code == 2
    missing = demur("report", run, "--policy", "lenient")
    assert missing.code == 2
    assert "keeps no policy 'lenient'" in missing.err
