"""demur distil and what follows it: a cascade's policy, decisions under it, and what happens
without its front.
"""

import asyncio
import io
import json
import shutil
import sys
from dataclasses import replace

import pytest

from demur.assembly.backends import make_backend
from demur.assembly.run import reopen
from demur.base.errors import ArtifactError, ConfigError
from demur.store.policies.policy_file import read_policy
from demur.store.run import RunFolder
from demur.store.scores.tables import read_scores
from tests.predictor_run import examples, predictor_run


def traffic(path, rows=1500, seed=5):
    texts = [{"prompt": e.text} for e in examples(rows, seed)]
    path.write_text("\n".join(map(json.dumps, texts)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run of engine "prompts"; tests must not change it."""
    return predictor_run(tmp_path_factory.mktemp("runs") / "big", "false_refusal <= 0.2")[0].root


@pytest.fixture
def run(made, tmp_path):
    return shutil.copytree(made, tmp_path / "run")


@pytest.fixture
def cascade(run, demur, tmp_path):
    """A run with a front and a policy `both` of the cascade."""
    told = demur("distil", run, "--traffic", traffic(tmp_path / "t.jsonl"), "--bound", "0.05")
    assert told.code == 0, told.err
    made = demur("calibrate", run, "--name", "both", "--set", "cascade=true")
    assert made.code == 0, made.err
    assert "cascade: the front decides" in made.err
    return run


def test_it_says_who_decides_how_often_they_differ_and_what_it_costs(demur, run, tmp_path):
    told = demur("distil", run, "--traffic", traffic(tmp_path / "t.jsonl"), "--bound", "0.05")
    assert told.code == 0, told.err
    for words in ("front: answered", "front: refused", "model decides otherwise"):
        assert words in told.out
    assert "CPU time of a decision: model alone" in told.err
    assert f"next: demur calibrate {run} --name cascade --set cascade=true" in told.err
    as_json = json.loads(
        demur("distil", run, "--traffic", tmp_path / "t.jsonl", "--bound", "0.05", "--json").out
    )
    assert as_json["decided"] > 0
    assert as_json["answered"]["of"] + as_json["refused"]["of"] == as_json["decided"]


def test_scores_that_are_there_are_not_made_again(demur, run, tmp_path):
    path, scores = traffic(tmp_path / "t.jsonl"), tmp_path / "t.parquet"
    assert demur("score", run, "--prompts", path, "--out", scores).code == 0
    told = demur("distil", run, "--traffic", path, "--scores", scores, "--bound", "0.05")
    assert told.code == 0, told.err
    assert "the model's was not measured" in told.err
    other = traffic(tmp_path / "u.jsonl", rows=1600, seed=6)
    missing = demur("distil", run, "--traffic", other, "--scores", scores)
    assert missing.code == 2
    assert "have no score" in missing.err


def test_decide_uses_the_cascade_where_the_policy_names_one(demur, cascade, tmp_path):
    rows = traffic(tmp_path / "new.jsonl", rows=80, seed=8)
    both = demur("decide", cascade, "--policy", "both", "--prompts", rows, "--json")
    assert both.code == 0, both.err
    assert "the front decided" in both.err
    by_front = int(both.err.partition("the front decided ")[2].partition(" of 80")[0])
    assert 0 < by_front < 81
    alone = demur("decide", cascade, "--prompts", rows, "--json")
    assert "the front decided" not in alone.err
    pairs = list(zip(json.loads(both.out), json.loads(alone.out), strict=True))
    assert sum(a["probability"] != b["probability"] for a, b in pairs) == by_front
    assert sum(a["decision"] != b["decision"] for a, b in pairs) <= 0.1 * len(pairs)


def test_without_its_front_a_cascades_policy_decides_nothing(demur, cascade):
    (cascade / "distil" / "front.npz").unlink()
    told = demur("decide", cascade, "--policy", "both", "Hello.")
    assert told.code == 2
    assert "front.npz is missing" in told.err or "out of date" in told.err
    served = demur("serve", cascade, "--policies", "both", "--url", "http://127.0.0.1:9/v1")
    assert served.code == 2
    assert "front.npz is missing" in served.err or "out of date" in served.err


def test_scores_of_the_model_alone_are_not_decided_under_it(demur, cascade):
    told = demur(
        "decide", cascade, "--policy", "both", "--scores", cascade / "score" / "test.parquet"
    )
    assert told.code == 2
    assert "decides on scores of a cascade" in told.err
    both = RunFolder(cascade).named("both")
    ours = demur(
        "decide",
        cascade,
        "--policy",
        "both",
        "--scores",
        both.stage("calibrate") / "test.parquet",
        "--json",
    )
    assert ours.code == 0, ours.err
    assert len(json.loads(ours.out)) == len(
        read_scores(both.stage("calibrate") / "test.parquet")[0].ids
    )


def test_a_file_is_scored_as_the_policy_has_it_scored(demur, cascade, tmp_path):
    rows, out = traffic(tmp_path / "new.jsonl", rows=40, seed=8), tmp_path / "new.parquet"
    told = demur("score", cascade, "--prompts", rows, "--out", out, "--policy", "both")
    assert told.code == 0, told.err
    assert read_scores(out)[1] == read_policy(RunFolder(cascade).named("both").policy).fingerprint
    assert demur("decide", cascade, "--policy", "both", "--scores", out).code == 0
    assert demur("decide", cascade, "--scores", out).code == 2
    assert demur("score", cascade, "--policy", "both").code == 2


def test_chat_decides_by_the_cascade(demur, cascade, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{examples(1, 5)[0].text}\n/quit\n"))
    told = demur("chat", cascade, "--policy", "both")
    assert told.code == 0, told.err
    assert "decision:" in told.out


def test_a_front_agrees_with_a_policy_of_the_model_alone(demur, cascade, tmp_path):
    told = demur("distil", cascade, "--traffic", tmp_path / "t.jsonl", "--policy", "both")
    assert told.code == 2
    assert "is of a cascade itself" in told.err


def test_policies_of_two_kinds_are_not_served_together(demur, cascade, tmp_path):
    policies = tmp_path / "policies"
    policies.mkdir()
    folder = RunFolder(cascade)
    shutil.copy(folder.policy, policies / "a.json")
    text = json.loads(folder.named("both").policy.read_text())
    (policies / "b.json").write_text(json.dumps(text | {"name": "b"}))
    told = demur("serve", cascade, "--policies", policies, "--url", "http://127.0.0.1:9/v1")
    assert told.code == 2
    assert "or some with none" in told.err
    assert read_policy(folder.policy).fingerprint.front is None


def test_the_gate_serves_the_cascade_and_the_plug_in_does_not(cascade):
    policy = read_policy(RunFolder(cascade).named("both").policy)
    workspace = replace(reopen(cascade), front=policy.fingerprint.front)
    gate = make_backend("gate", workspace, "http://127.0.0.1:9/v1", {}, "test")
    policy.require_model(gate.fingerprint)
    asyncio.run(gate.close())
    with pytest.raises(
        ConfigError, match="the plug-in of backend 'vllm' decides on the model's scores alone"
    ):
        make_backend("vllm", workspace, "http://127.0.0.1:9/v1", {}, "test")
    other = replace(workspace, front="sha256:other")
    with pytest.raises(
        ArtifactError, match="and the policy was calibrated with front sha256:other"
    ):
        make_backend("gate", other, "http://127.0.0.1:9/v1", {}, "test")
