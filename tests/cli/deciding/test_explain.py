"""What `demur explain` says of the model behind a run's policy."""

import json
from dataclasses import replace

import pytest

from demur.cli.deciding.explain import _of_the_model
from demur.core.midway.monitor import AnswerSampling, Monitor
from demur.core.ports import Origin, TrainedModel
from demur.core.taxonomy import single
from demur.core.threshold import NEVER
from demur.engines.fake.engine import FakeEngine
from demur.store.models.model_file import write_model_file
from demur.store.policies.policy_file import policy_digest, read_policy, write_policy
from demur.store.run import RunFolder


def origins(result):
    return {
        c["category"]: (c["threshold"], c["origin"]) for c in json.loads(result.out)["categories"]
    }


ORIGIN = Origin(
    model="some/model", licence="Apache-2.0", source="a folder", digest="sha256:" + "0" * 64
)


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


def test_explain_shows_the_thresholds_of_a_monitor(demur, place):
    careful = read_policy(place / "policies" / "careful.json")
    monitor = Monitor(
        thresholds=(NEVER, NEVER, NEVER, 0.25, NEVER),
        answers=AnswerSampling(most_tokens=128, temperature=0.0),
    )
    path = place / "watched.json"
    write_policy(path, replace(careful, promises=(), monitor=monitor))
    result = demur("explain", path)
    assert result.code == 0
    line = (
        "monitor: stops an answer where the maximum reaches safety 0.25; on answers of at most "
        "128 tokens, greedy, 24 tokens held back"
    )
    assert line in result.err
    shown = json.loads(demur("explain", path, "--json").out)["monitor"]
    assert shown["thresholds"]["safety"] == 0.25
    assert shown["thresholds"]["humanizing"] == "never"


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


@pytest.mark.parametrize(("change", "warned"), [(0.04, False), (0.3, True)])
def test_the_base_and_the_language_are_named_and_a_loss_is_warned_of(tmp_path, change, warned):
    folder = RunFolder(tmp_path).model
    folder.mkdir(parents=True)
    details = {"language_change": change, "language_tokens": 2500, "language_rows": 64}
    fingerprint = FakeEngine(taxonomy=single()).fingerprint
    made = TrainedModel(
        fingerprint=fingerprint,
        steps=1,
        history=(),
        row_change=(1.0, 1.0),
        details=details,
        origin=ORIGIN,
    )
    write_model_file(folder, single(), made, "sha256:rows")
    lines = _of_the_model(tmp_path)
    assert lines[0] == f"the model was made from {ORIGIN.text}"
    assert lines[1].startswith(f"language: {change:+.3f} nats a token")
    assert [line.startswith("warning: the language suffers") for line in lines[2:]] == [
        True
    ] * warned


def test_nothing_is_said_where_nothing_is_known(tmp_path):
    assert _of_the_model(tmp_path) == []
