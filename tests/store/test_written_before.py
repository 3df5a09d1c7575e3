"""Files that earlier revisions wrote are read unchanged, and stored policies keep digests,
decisions and promises.

How they were made: tests/store/fixtures/make.py. A failure here is a broken format, not a move of
code.
"""

import json
import shutil
import subprocess
import sys
import tarfile
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from demur.assembly.run import reopen
from demur.core.decision import decide_many
from demur.core.policy import RULES
from demur.core.taxonomy import coconot, single
from demur.stages import watch
from demur.stages.watch.state import monitor_of
from demur.stats.drift.monitor import start_monitor
from demur.store.answers.answers_file import read_answers, read_verdicts
from demur.store.answers.blackbox_file import BlackboxFolder, prompts_without_outcome, read_summary
from demur.store.answers.labels import read_key
from demur.store.models.front_file import (
    FRONT,
    front_file,
    front_of,
    read_front,
    read_front_metrics,
)
from demur.store.models.model_file import read_model_file, require_whole
from demur.store.models.seen_file import front_seen, read_seen, require_unseen_splits, seen_by_run
from demur.store.models.text_model_file import PREDICTOR, read_text_classifier
from demur.store.policies.calibrator_file import read_correctness_aware
from demur.store.policies.choice_file import read_choice
from demur.store.policies.folder import read_folder
from demur.store.policies.keys import ApiKey, authenticate
from demur.store.policies.policy_file import policy_digest, policy_to_json, read_policy
from demur.store.policies.tenants_file import read_tenants
from demur.store.results.bench_file import read_bench
from demur.store.results.everyday_file import read_everyday
from demur.store.results.item_results import read_items
from demur.store.results.metrics_file import read_metrics
from demur.store.results.monitor_file import read_feedback, read_live, read_monitor
from demur.store.results.study_file import read_study
from demur.store.rows import read_examples
from demur.store.run import STAGES, RunFolder
from demur.store.scores.rewritten import correctness_file, read_rewritten
from demur.store.scores.tables import read_branches, read_requests, read_scores

FIXTURES = Path(__file__).parent / "fixtures"
REVISIONS = sorted(p.name.removesuffix(".tar.xz") for p in FIXTURES.glob("*.tar.xz"))


@pytest.fixture(scope="module", params=REVISIONS)
def written(request, tmp_path_factory):
    """The folder that the code of a revision wrote; tests must not change it."""
    folder = tmp_path_factory.mktemp("written") / request.param
    with tarfile.open(FIXTURES / f"{request.param}.tar.xz") as packed:
        packed.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="module")
def golden(written):
    """Each policy's digest, decisions and promises, as its own revision had them."""
    return json.loads((FIXTURES / f"{written.name}.json").read_text(encoding="utf-8"))


def scores(columns):
    """As in make.py."""
    logits_NC = np.random.default_rng(7).normal(size=(40, columns)) * 2.0
    logp_NC = logits_NC - np.logaddexp.reduce(logits_NC, axis=1)[:, None]
    return np.minimum(logp_NC, 0.0).astype(np.float32)


def test_policies_keep_their_digests_their_decisions_and_what_they_promise(written, golden):
    for name, expected in golden.items():
        policy = read_policy(written / name)
        assert policy_digest(policy) == expected["digest"], name
        choice_N = decide_many(policy, scores(len(policy.taxonomy.tokens))).choice_N
        assert "".join(map(str, choice_N)) == expected["choices"], name
        assert [f"{p.risk}: {p.status}" for p in policy.promises] == expected["promises"], name


def test_a_policy_is_written_as_it_was_read(written, golden):
    for name in golden:
        value = json.loads((written / name).read_text(encoding="utf-8"))
        value.pop("signature", None)  # by a key that is not here
        assert policy_to_json(read_policy(written / name)) == value, name


def test_the_policies_stand_for_every_rule_and_every_calibrator(written, golden):
    files = [json.loads((written / name).read_text(encoding="utf-8")) for name in golden]
    assert {f["rule"] for f in files} == set(RULES)
    maps = [f["calibrator"]["map"] for f in files if "map" in f["calibrator"]]
    kinds = {m["maps"][0]["kind"] if m["kind"] == "one-vs-rest" else m["kind"] for m in maps}
    assert kinds == {
        *(
            "temperature",
            "platt",
            "vector",
            "beta-softmax",
            "histogram",
            "isotonic",
            "venn-abers",
            "matrix",
        ),
        *("ensemble", "piecewise-linear", "umnn", "pair"),
    }


def test_a_folder_of_policies_and_its_tenants_are_served(written):
    found = read_folder(written / "policies")
    found.require_sound()
    tenants = read_tenants(written / "tenants.toml")
    assert {name for t in tenants.tenants for name in t.policies} <= set(found.policies)
    key = authenticate(tenants.keys, "one", datetime(2030, 1, 1, tzinfo=UTC))
    assert isinstance(key, ApiKey)
    assert key.tenant.name == "acme"


def test_a_finished_run_is_finished(written):
    workspace = reopen(written / "run")
    folder = workspace.folder
    now = workspace.config.resolved()
    for section, keys in json.loads(
        (folder.root / "config.json").read_text(encoding="utf-8")
    ).items():
        assert {key: now[section][key] for key in keys} == keys, section
    for stage in STAGES[:-1]:  # of the report, its page of HTML is left out
        folder.require(stage)
    assert folder.policy_names == ("aware", "natural-one")
    for name in folder.policy_names:
        folder.named(name).require("calibrate")
    assert folder.receipt("report").stage == "report"


def test_the_rows_scores_branches_and_metrics_of_a_run_are_read(written):
    folder = RunFolder(written / "run")
    fingerprint = read_model_file(folder.model).fingerprint
    for split in ("calibrate", "test"):
        table, scored_by = read_scores(folder.scores(split))
        assert scored_by == fingerprint
        assert set(table.ids) == {e.id for e in read_examples(folder.split(split))}
        assert set(read_rewritten(folder, split, ["case"])["case"].ids) == set(table.ids)
    assert read_branches(folder.branches, coconot().tokens)
    assert read_metrics(folder.metrics)
    assert read_everyday(folder)
    assert read_choice(folder.calibrator).family == "temperature"
    assert read_correctness_aware(correctness_file(folder.named("aware")))


def test_a_trained_model_is_whole_and_knows_what_it_saw(written):
    folder = RunFolder(written / "run")
    require_whole(folder.model)
    seen = require_unseen_splits(folder, ("calibrate", "test"))
    assert seen == seen_by_run(folder)


def test_a_trained_model_scores_as_it_did(written, tmp_path):
    pytest.importorskip("torch")
    run = shutil.copytree(written / "run", tmp_path / "run")
    before, _ = read_scores(RunFolder(run).scores("test"))
    shutil.rmtree(run / "score")
    told = subprocess.run(
        [sys.executable, "-m", "demur", "score", run], capture_output=True, text=True, check=False
    )
    assert told.returncode == 0, told.stderr
    after, _ = read_scores(RunFolder(run).scores("test"))
    assert after.ids == before.ids
    # other machines round otherwise
    np.testing.assert_allclose(after.logp_NC, before.logp_NC, atol=1e-3)


def test_what_was_watched_goes_on(written, tmp_path):
    policy = read_policy(written / "policies" / "goal-false.json")
    monitor = read_monitor(written / "watch" / "state.json")
    live = read_live(written / "watch" / "live.json")
    assert monitor.policy == live.policy == policy_digest(policy)
    assert live.tenants["acme"].series[0].steps == 40
    assert len(read_feedback(written / "watch" / "feedback.jsonl", coconot())) == len(
        monitor.labelled
    )
    # evidence of before tests began anew goes on
    scores = written / "watch" / "live-scores.parquet"
    fresh = start_monitor(policy, read_scores(scores)[0].logp_NC)
    for row in (monitor, live.tenants["acme"]):
        found = monitor_of(row, fresh, scores)
        assert found.requests == row.series[0].steps
        assert [a.units for a in found.audits] == [a.rate.of for a in row.audits]
        assert [m.highest_log_e for m in found.series] == [s.highest_log_e for s in row.series]
        assert all(np.isfinite(m.log_e) for m in (*found.series, *found.audits))
    assert not read_requests(written / "watch" / "live-scores.parquet").in_time
    assert watch.Config(scores=written / "watch" / "live-scores.parquet")


def test_a_study_and_a_benchmark_are_read(written):
    assert {
        s.calibrator for s in read_study(written / "study" / "study.json").rankings[0].standings
    } >= {"temperature"}
    (row,) = read_bench(written / "bench" / "bench.json").benchmarks
    assert row.rows == 3


def test_a_black_box_is_read(written):
    folder = reopen(written / "blackbox").folder
    for stage in ("blackbox", "data", "train", "score", "calibrate"):
        folder.require(stage)
    assert read_summary(BlackboxFolder(folder).summary).answered == 200
    assert prompts_without_outcome(folder) == 0
    assert read_text_classifier(folder.model / PREDICTOR)
    assert len(read_answers(BlackboxFolder(folder).answers)) == 200


def test_a_cascade_is_read(written):
    folder = reopen(written / "cascade").folder
    folder.require("distil")
    folder.named("both").require("calibrate")
    policy = read_policy(folder.named("both").policy)
    model = read_model_file(folder.model).fingerprint
    front, digest = front_of(folder, model, policy.fingerprint.front)
    assert digest == policy.fingerprint.front
    assert front.taught_by == read_front(front_file(folder)).taught_by == model
    assert read_front_metrics(folder).decided > 0
    assert read_seen(front_seen(folder))
    assert FRONT
    assert model.tokens == single().tokens


def test_judges_labels_and_items_are_read(written):
    rows = read_answers(written / "judge" / "answers.jsonl")
    verdicts = read_verdicts(written / "judge" / "answers.verdicts.jsonl", [r.id for r in rows])
    assert [v.verdict for v in verdicts] == [r.label for r in rows]
    assert read_text_classifier(written / "judge" / "judge.npz")
    assert len(read_key(written / "labels" / "texts.jsonl")) > 0
    assert len(read_items(written / "ability" / "before.jsonl")) == 20
