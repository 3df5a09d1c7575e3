"""demur watch on a run of the fake engine."""

import json
import shutil

import numpy as np
import pytest

from demur.core.score import ScoreTable
from demur.store.run import RunFolder
from demur.store.scores.tables import read_scores, write_scores
from tests.fake_run import like_traffic


@pytest.fixture
def run(made_run, tmp_path, demur):
    """A copy of the finished run, with a certified promise."""
    root = shutil.copytree(made_run, tmp_path / "run")
    assert demur("calibrate", root, "--goal", "false_refusal <= 0.25").code == 0
    return root


def test_supported_promises_exit_with_0_and_say_so(demur, run, tmp_path):
    result = demur(
        "watch", run, "--scores", like_traffic(RunFolder(run), tmp_path / "live.parquet")
    )
    assert result.code == 0
    assert "supported" in result.out
    assert "no longer" not in result.out
    assert f"state: {run / 'watch' / 'state.json'}" in result.err


def shifted_scores(run, tmp_path):
    table, fingerprint = read_scores(RunFolder(run).scores("test"))
    logits_NC = table.logp_NC + np.array([0, 0, 0, 0, 4, 0], dtype=np.float32)
    logp_NC = logits_NC - np.logaddexp.reduce(logits_NC, axis=1)[:, None]
    shifted = ScoreTable(ids=table.ids, logp_NC=np.minimum(logp_NC, 0).astype(np.float32))
    write_scores(tmp_path / "live.parquet", shifted, fingerprint)
    return tmp_path / "live.parquet"


def all_to_be_answered(scores, tmp_path):
    """Labels under which every refusal was wrong."""
    rows = [{"id": i, "label": "respond"} for i in read_scores(scores)[0].ids]
    (tmp_path / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "labels.jsonl"


def test_shifted_scores_are_a_warning_and_labels_against_a_promise_exit_with_3(
    demur, run, tmp_path
):
    scores = shifted_scores(run, tmp_path)
    told = ("--scores", scores, "--state", tmp_path / "s.json")
    seen = demur("watch", run, *told)
    assert seen.code == 0
    assert "drift seen" in seen.out
    assert "No promise is lost by that" in seen.err
    result = demur(
        "watch", run, *told, "--feedback", all_to_be_answered(scores, tmp_path), "--json"
    )
    assert result.code == 3
    value = json.loads(result.out)
    assert (value["supported"], value["drift_seen"]) == (False, True)
    assert value["promises"][0]["verdict"] == "no longer supported"
    assert all(a["p_value"] <= 0.05 for a in value["promises"][0]["alarms"])
    assert {s["test"] for s in value["shifts"]} == {"ks", "psi", "js", "refusal_rate"}


def test_a_run_without_a_policy_is_named(demur, run):
    shutil.rmtree(run / "calibrate")
    result = demur("watch", run, "--scores", RunFolder(run).scores("test"))
    assert result.code == 2
    assert "demur calibrate" in result.err


def test_an_operator_resets_and_the_reason_stays_in_the_record(demur, run, tmp_path):
    scores = shifted_scores(run, tmp_path)
    assert (
        demur(
            "watch", run, "--scores", scores, "--feedback", all_to_be_answered(scores, tmp_path)
        ).code
        == 3
    )
    assert demur("watch", run, "--reset", " ").code == 2
    done = demur("watch", run, "--reset", "a test run of ours, see ticket 7")
    assert done.code == 0
    state = json.loads((run / "watch" / "state.json").read_text())
    (record,) = state["resets"]
    assert record["reason"] == "a test run of ours, see ticket 7"
    assert any("errors among" in text for text in record["against"])
    assert record["seen"] > 100
    good = demur("watch", run, "--scores", like_traffic(RunFolder(run), tmp_path / "good.parquet"))
    assert good.code == 0
    assert len(json.loads((run / "watch" / "state.json").read_text())["resets"]) == 1


def test_there_is_nothing_to_reset_or_to_look_at_before_anything_was_seen(demur, run):
    assert "nothing was seen" in demur("watch", run, "--reset", "why").err
    assert "--scores" in demur("watch", run).err
