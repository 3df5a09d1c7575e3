"""`calibrate --name` keeps several policies in a run, each with its own receipts, evaluation and
report.
"""

import json

import pytest

from demur.base.errors import AccessError
from demur.cli.policies import policy_with_overrides
from demur.stages.watch import begin_watching
from demur.store.policies.policy_file import read_policy
from demur.store.run import RunFolder
from demur.store.scores.tables import read_scores, write_scores
from tests import builders
from tests.fake_run import like_traffic


def test_a_locked_category_cannot_be_overridden():
    policy = builders.with_category(builders.policy(2), 0, locked=True)
    assert (
        policy_with_overrides(policy, ["humanizing=0.3"], []).category("humanizing").threshold
        == 0.3
    )
    with pytest.raises(AccessError, match="locked"):
        policy_with_overrides(policy, ["safety=0.3"], [])


def test_a_rule_without_thresholds_cannot_be_overridden():
    with pytest.raises(AccessError, match="compares no thresholds"):
        policy_with_overrides(builders.policy(2, rule="natural"), ["safety=0.3"], [])


def test_the_one_threshold_of_rule_sum_moves_for_all_categories():
    changed = policy_with_overrides(builders.policy(3, rule="sum"), ["safety=0.3"], [])
    assert [c.threshold for c in changed.categories] == [0.3, 0.3, 0.3]


def test_a_policy_of_other_scores_is_refused_wherever_it_is_used(demur, run):
    folder = RunFolder(run)
    table, fingerprint = read_scores(folder.scores("calibrate"))
    write_scores(folder.scores("calibrate"), table.select(table.ids[:-1]), fingerprint)
    for verb in (
        ["decide", run, "Hello."],
        ["explain", run],
        ["diff", run, run, "--scores", folder.scores("test")],
    ):
        result = demur(*verb)
        assert result.code == 2
        assert "calibrate is out of date: it was made from another score/calibrate" in result.err


def test_a_named_policy_stands_beside_the_runs_own_and_is_found_by_its_name(demur, run):
    own = (run / "calibrate" / "policy.json").read_bytes()
    made = demur("calibrate", run, "--name", "careful", "--goal", "false_refusal <= 0.3")
    assert made.code == 0, made.err
    assert (run / "calibrate" / "policy.json").read_bytes() == own
    careful = RunFolder(run).named("careful")
    assert careful.policy == run / "calibrate" / "careful" / "policy.json"
    assert read_policy(careful.policy).name == "careful"
    assert RunFolder(run).policy_names == ("careful",)
    assert (
        "already done"
        in demur("calibrate", run, "--name", "careful", "--goal", "false_refusal <= 0.3").err
    )
    explained = demur("explain", run, "--policy", "careful", "--json")
    assert json.loads(explained.out)["policy"] == "careful"
    decided = demur(
        "decide", run, "--policy", "careful", "--scores", run / "score" / "test.parquet", "--json"
    )
    assert decided.code == 0, decided.err


def test_names_that_mean_something_else_and_policies_that_are_not_there_are_named(demur, run):
    taken = demur("calibrate", run, "--name", "policies")
    assert (taken.code, "cannot be called 'policies'" in taken.err) == (2, True)
    assert demur("calibrate", run, "--name", "../out").code == 2
    missing = demur("report", run, "--policy", "lenient")
    assert missing.code == 2
    assert "keeps no policy 'lenient'" in missing.err


def test_a_named_policy_is_watched_by_its_name_and_servers_hear_what_was_counted(
    demur, run, tmp_path
):
    assert demur("calibrate", run, "--name", "careful", "--goal", "false_refusal <= 0.2").code == 0
    scores = like_traffic(RunFolder(run), tmp_path / "live.parquet")
    ids = read_scores(scores)[0].ids
    labels = tmp_path / "labels.jsonl"
    labels.write_text("".join(json.dumps({"id": i, "label": "respond"}) + "\n" for i in ids))
    seen = demur("watch", run, "--policy", "careful", "--scores", scores, "--feedback", labels)
    assert seen.code == 3, seen.err
    assert (run / "watch" / "state-careful.json").exists()
    assert not (run / "watch" / "state.json").exists()
    standing = begin_watching([RunFolder(run)], read_policy(RunFolder(run).named("careful").policy))
    assert [w.promise.status for w in standing.watched("acme")] == ["no longer supported"]
    assert demur("watch", run, "--policy", "lenient", "--scores", scores).code == 2


def test_a_named_policy_made_from_other_rows_is_not_served(demur, run):
    assert demur("calibrate", run, "--name", "careful", "--goal", "false_refusal <= 0.3").code == 0
    path = run / "data" / "calibrate.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    stale = demur("serve", run, "--policies", "careful", "--port", "0")
    assert (stale.code, "out of date" in stale.err) == (2, True), stale.err
