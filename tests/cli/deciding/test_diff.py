import json
from dataclasses import replace

from demur.core.policy import NEVER
from demur.store.policies.policy_file import policy_digest, read_policy, write_policy
from demur.store.rows import read_examples
from demur.store.run import RunFolder


def test_diff_counts_and_lists_exactly_the_decisions_that_change(demur, made_run, place):
    folder = RunFolder(made_run)
    policy = read_policy(folder.policy)
    write_policy(place / "new.json", replace(policy.with_thresholds({"safety": NEVER}), name="new"))
    scores, prompts = folder.scores("test"), folder.split("test")
    arguments = ("diff", made_run, place / "new.json", "--scores", scores)
    rows = json.loads(demur("decide", made_run, "--scores", scores, "--json").out)
    expected = [r["prompt"] for r in rows if r["decision"] == "safety"]
    result = demur(*arguments, "--prompts", prompts, "--json")
    assert result.code == 3
    value = json.loads(result.out)
    texts = {e.id: e.text for e in read_examples(prompts)}
    assert value["changes"] == [
        {"id": i, "before": "safety", "after": "respond", "prompt": texts[i]} for i in expected
    ]
    assert {"before": "safety", "after": "respond", "rows": len(expected)} in value["counts"]
    assert sum(c["rows"] for c in value["counts"]) == value["rows"] == len(rows)
    assert value["before"]["digest"] == policy_digest(policy)
    shown = demur(*arguments)
    assert shown.code == 3
    assert expected[0] in shown.out
    assert f"{len(expected)} of {len(rows)} decisions change" in shown.err


def test_diff_of_policies_that_decide_alike_is_quiet_and_leaves_with_zero(demur, made_run):
    result = demur("diff", made_run, made_run, "--scores", RunFolder(made_run).scores("test"))
    assert result.code == 0
    assert "0 of" in result.err


def test_diff_wants_scores_of_the_policies_model_and_the_prompts_that_were_scored(
    demur, made_run, place
):
    folder = RunFolder(made_run)
    policy = read_policy(folder.policy)
    write_policy(
        place / "other.json",
        replace(policy, fingerprint=replace(policy.fingerprint, dtype="float16")),
    )
    result = demur("diff", made_run, place / "other.json", "--scores", folder.scores("test"))
    assert result.code == 2
    assert "dtype differ" in result.err
    write_policy(
        place / "silent.json", policy.with_thresholds(dict.fromkeys(policy.taxonomy.names, NEVER))
    )
    missing = ("--scores", folder.scores("test"), "--prompts", folder.split("train"))
    result = demur("diff", made_run, place / "silent.json", *missing)
    assert result.code == 2
    assert "that were scored" in result.err
