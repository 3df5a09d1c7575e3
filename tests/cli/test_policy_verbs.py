"""explain, diff and keys: what operators ask about policies before and while a server uses them."""

import json
import shutil
import tomllib
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from demur.core.policy import Sensitivity
from demur.core.threshold import NEVER
from demur.store.policies.keys import digest_of_key
from demur.store.policies.policy_file import policy_digest, read_policy, write_policy
from demur.store.policies.tenants_file import read_tenants
from demur.store.rows import read_examples
from demur.store.run import RunFolder

TENANTS = """
[tenants.acme]
policies = ["default", "careful"]
may_override = true

[tenants.small]
policies = ["careful"]
"""


@pytest.fixture
def place(made_run, tmp_path):
    """A folder of two policies, and tenants beside it."""
    default = read_policy(RunFolder(made_run).policy)
    careful = replace(
        default.with_thresholds({"humanizing": 0.5}),
        name="careful",
        categories=tuple(
            replace(
                c,
                locked=name == "safety",
                limits=(0.1, 0.9) if name == "humanizing" else None,
                threshold=0.5,
            )
            for name, c in zip(default.taxonomy.names, default.categories, strict=True)
        ),
        sensitivities=(
            Sensitivity(name="strict", thresholds=(("humanizing", 0.2), ("incomplete", 0.3))),
        ),
    )
    write_policy(tmp_path / "policies" / "default.json", default)
    write_policy(tmp_path / "policies" / "careful.json", careful)
    (tmp_path / "tenants.toml").write_text(TENANTS, encoding="utf-8")
    return tmp_path


def origins(result):
    return {
        c["category"]: (c["threshold"], c["origin"]) for c in json.loads(result.out)["categories"]
    }


def test_explain_shows_where_each_threshold_of_a_request_comes_from(demur, place):
    asks = [
        "--sensitivity",
        "strict",
        "--rate",
        "incomplete=0.05",
        "--threshold",
        "unsupported=never",
    ]
    who = ["--tenant", f"acme@{place / 'tenants.toml'}", "--policy", "careful"]
    result = demur("explain", place / "policies", *who, *asks, "--json")
    assert result.code == 0
    careful = read_policy(place / "policies" / "careful.json")
    assert origins(result) == {
        "humanizing": (0.2, "sensitivity strict"),
        "incomplete": (careful.threshold_at_rate("incomplete", 0.05), "rate 0.05"),
        "indeterminate": (0.5, "policy"),
        "safety": (0.5, "policy"),
        "unsupported": ("never", "threshold"),
    }
    value = json.loads(result.out)
    assert (value["policy"], value["digest"], value["overridden"]) == (
        "careful",
        policy_digest(careful),
        True,
    )
    assert value["categories"][0]["limits"] == [0.1, 0.9]
    shown = demur("explain", place / "policies", *who, *asks)
    assert [
        w
        for w in ("sensitivity strict", "0.1 to 0.9", "none: locked", "0 to never")
        if w not in shown.out
    ] == []
    assert "promises of the policy do not cover" in shown.err


def test_explain_refuses_what_the_server_would_refuse(demur, place):
    tenants = place / "tenants.toml"
    for arguments, says in (
        ((f"acme@{tenants}", "--policy", "secret"), "no policy 'secret' for this key"),
        ((f"small@{tenants}", "--policy", "default"), "no policy 'default' for this key"),
        ((f"small@{tenants}", "--rate", "humanizing=0.1"), "may choose a policy, not change it"),
        (
            (f"acme@{tenants}", "--policy", "careful", "--threshold", "safety=0.6"),
            "'safety' is locked",
        ),
        (
            (f"acme@{tenants}", "--policy", "careful", "--threshold", "humanizing=never"),
            "limits [0.1, 0.9]",
        ),
        ((f"acne@{tenants}",), "did you mean 'acme'?"),
        (("acme",), "write --tenant acme@tenants.toml"),
    ):
        result = demur("explain", place / "policies", "--tenant", *arguments)
        assert result.code == 2
        assert says in result.err


def test_explain_decides_a_scored_row_under_the_thresholds_it_shows(demur, made_run, place):
    scores = RunFolder(made_run).scores("test")
    rows = json.loads(demur("decide", made_run, "--scores", scores, "--json").out)
    refused = next(r for r in rows if r["refuses"])
    row = f"{refused['prompt']}@{scores}"
    result = demur("explain", made_run, "--row", row, "--json")
    assert json.loads(result.out)["row"]["decision"] == refused["decision"]
    freed = demur(
        "explain", made_run, "--row", row, "--threshold", f"{refused['decision']}=never", "--json"
    )
    assert json.loads(freed.out)["row"]["decision"] == "respond"
    assert refused["decision"] in demur("explain", made_run, "--row", row).out
    assert demur("explain", made_run, "--row", f"nobody@{scores}").code == 2


def test_explain_asks_the_operator_for_one_of_several_policies_and_names_a_bad_file(demur, place):
    result = demur("explain", place / "policies")
    assert result.code == 2
    assert "pick one: --policy" in result.err
    (place / "policies" / "careful.json").write_text("{", encoding="utf-8")
    result = demur("explain", place / "policies")
    assert result.code == 0
    assert "not read:" in result.err
    assert "careful.json is damaged" in result.err
    assert "'default'" in result.out
    assert "cannot read" in demur("explain", place / "absent").err


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


def test_keys_prints_lines_that_open_the_tenants_file_to_the_key_shown(demur, place):
    before = datetime.now(UTC)
    result = demur("keys", "acme", "--label", "backend", "--days", "30")
    assert result.code == 0
    key = result.err.split()[-1]
    assert key not in result.out
    path = shutil.copy(place / "tenants.toml", place / "more.toml")
    with path.open("a", encoding="utf-8") as file:
        file.write(result.out)
    (stored,) = read_tenants(path).keys
    assert (stored.tenant.name, stored.label, stored.sha256) == (
        "acme",
        "backend",
        digest_of_key(key),
    )
    assert timedelta(days=29, hours=23) < stored.expires - before < timedelta(days=30, hours=1)


def test_keys_are_never_the_same_and_speak_json(demur):
    made = [json.loads(demur("keys", "acme", "--json").out) for _ in range(2)]
    assert len({m["key"] for m in made}) == 2
    assert all(len(m["key"]) >= 40 for m in made)
    (row,) = tomllib.loads(made[0]["toml"])["tenants"]["acme"]["keys"]
    assert row["sha256"] == digest_of_key(made[0]["key"])


def test_keys_refuses_a_name_that_no_tenant_can_have(demur):
    result = demur("keys", "a b")
    assert result.code == 2
    assert "a b" in result.err
