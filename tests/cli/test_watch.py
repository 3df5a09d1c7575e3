"""demur watch on a run of the fake engine."""

import json
import shutil

import numpy as np
import pytest

from demur.core.score import ScoreTable
from demur.store.run import RunFolder
from demur.store.tables import read_scores, write_scores
from tests.fake_run import like_traffic


@pytest.fixture
def run(made_run, tmp_path, demur):
    """A copy of the finished run, with a certified promise."""
    root = shutil.copytree(made_run, tmp_path / "run")
    assert demur("calibrate", root, "--goal", "false_refusal <= 0.25").code == 0
    return root


def test_supported_promises_exit_with_0_and_say_so(demur, run, tmp_path):
    result = demur("watch", run, "--scores", like_traffic(RunFolder(run), tmp_path / "live.parquet"))
    assert result.code == 0
    assert "supported" in result.out
    assert "no longer" not in result.out
    assert f"state: {run / 'watch' / 'state.json'}" in result.err


def test_shifted_scores_exit_with_3_and_name_the_evidence(demur, run, tmp_path):
    table, fingerprint = read_scores(RunFolder(run).scores("test"))
    logits_NC = table.logp_NC + np.array([0, 0, 0, 0, 4, 0], dtype=np.float32)
    logp_NC = logits_NC - np.logaddexp.reduce(logits_NC, axis=1)[:, None]
    shifted = ScoreTable(ids=table.ids, logp_NC=np.minimum(logp_NC, 0).astype(np.float32))
    write_scores(tmp_path / "live.parquet", shifted, fingerprint)
    result = demur("watch", run, "--scores", tmp_path / "live.parquet", "--state", tmp_path / "s.json", "--json")
    assert result.code == 3
    value = json.loads(result.out)
    assert value["supported"] is False
    assert value["promises"][0]["verdict"] == "no longer supported"
    assert all(a["p_value"] <= 0.05 for a in value["promises"][0]["alarms"])
    assert {s["test"] for s in value["shifts"]} == {"ks", "psi", "js", "refusal_rate"}


def test_a_run_without_a_policy_is_named(demur, run):
    shutil.rmtree(run / "calibrate")
    result = demur("watch", run, "--scores", RunFolder(run).scores("test"))
    assert result.code == 2
    assert "demur calibrate" in result.err
