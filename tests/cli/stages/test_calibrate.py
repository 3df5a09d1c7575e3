"""demur calibrate with several goals."""

import json
import re

from demur.cli.policy_text import summary_json
from demur.stages.arrival import left_rows
from demur.store.policies.policy_file import read_policy
from demur.store.rows import read_examples
from demur.store.run import RunFolder


def test_calibrate_prints_the_policy_that_it_wrote(demur, run):
    result = demur("calibrate", run, "--goal", "refusal_rate = 20%", "--name", "fifth", "--json")
    assert result.code == 0
    file = RunFolder(run).named("fifth").policy
    policy = read_policy(file)
    assert json.loads(result.out) == summary_json(policy, file)
    assert policy.name == "fifth"
    assert policy.promises[0].risk == "refusal_rate"


def test_calibrate_shows_a_row_per_category_and_whether_anything_is_promised(demur, run):
    result = demur("calibrate", run, "--goal", "false_refusal <= 0.2")
    assert result.code == 0
    assert "certified: false_refusal at 0.2 with 95% confidence" in result.err
    assert [
        c
        for c in ("humanizing", "incomplete", "indeterminate", "safety", "unsupported")
        if c not in result.out
    ] == []


def test_calibrate_says_which_calibrator_it_took_and_why(demur, run):
    result = demur("calibrate", run, "--calibrator", "temperature")
    assert result.code == 0
    assert (
        "calibrator: temperature: asked for by name, compared with nothing; fitted on" in result.err
    )
    assert "on the calibrate rows that thresholds were chosen on" in result.out
    left = len(left_rows(RunFolder(run)).left)
    assert f" of {left} " in result.out
    as_json = json.loads(demur("calibrate", run, "--calibrator", "temperature", "--json").out)
    choice = as_json.pop("calibrator_choice")
    file = RunFolder(run).policy
    assert as_json == summary_json(read_policy(file), file)
    assert (choice["family"], choice["left"]) == ("temperature", left)


def test_calibrate_picks_a_calibrator_by_itself(demur, run):
    result = demur("calibrate", run, "--calibrator", "auto")
    assert result.code == 0
    assert re.search(r"calibrator: [\w-]+: log loss \d", result.err)


def test_an_unknown_calibrator_gets_a_suggestion(demur, run):
    result = demur("calibrate", run, "--calibrator", "isotonc")
    assert result.code == 2
    assert "did you mean 'isotonic'?" in result.err


def test_settings_of_calibrate_go_together_in_any_order_and_its_costs_may_come_from_probabilities(
    demur, run
):
    wish = (
        "calibrate",
        run,
        "--goal",
        "cost: false=1 missed=4",
        "--set",
        "cost_from=probabilities",
    )
    result = demur(*wish, "--calibrator", "temperature", "--json")
    assert result.code == 0
    assert {c["threshold"] for c in json.loads(result.out)["categories"]} == {0.2}
    assert "without a calibrator" in demur(*wish).err


def test_unreachable_and_contradictory_rates_end_in_an_error(demur, run):
    result = demur("calibrate", run, "--goal", "refusal_rate[safety] = 90%")
    assert result.code == 3
    assert "the highest rate in reach" in result.err
    result = demur(
        "calibrate",
        run,
        "--goal",
        "refusal_rate[safety] = 60%",
        "--goal",
        "refusal_rate[humanizing] = 60%",
    )
    assert result.code == 2
    assert "sum to 1.2" in result.err


def test_an_infeasible_goal_has_an_exit_code_of_its_own_and_leaves_the_policy(demur, run):
    before = RunFolder(run).policy.read_bytes()
    result = demur("calibrate", run, "--goal", "false_refusal <= 0.0001")
    assert result.code == 3
    assert "rows cannot promise" in result.err
    assert "29956 could" in result.err
    assert RunFolder(run).policy.read_bytes() == before


def test_an_unreadable_goal_is_shown_with_a_caret(demur, run):
    result = demur("calibrate", run, "--goal", "false_refusal < 0.1")
    assert result.code == 2
    assert "^ expected" in result.err


def test_rows_that_a_model_was_trained_on_are_named_by_every_stage_and_nothing_is_written_before(
    demur, run, tmp_path
):
    config = tmp_path / "again.toml"
    config.write_text('[[data.sources]]\nkind = "builtin"\n[data]\ncalibrate_share = 0.5\n')
    before = {p: p.read_bytes() for p in sorted(run.rglob("*")) if p.is_file()}
    refused = demur("data", config, "--out", run)
    assert refused.code == 2
    assert re.search(
        r"trained on [\d,]+ of [\d,]+ rows .* of the new calibrate and test splits; nothing was "
        r"written",
        refused.err,
    )
    assert "--again" in refused.err
    assert {p: p.read_bytes() for p in sorted(run.rglob("*")) if p.is_file()} == before
    assert demur("run", config, "--out", run).code == 2
    assert {p: p.read_bytes() for p in sorted(run.rglob("*")) if p.is_file()} == before
    assert demur("data", config, "--out", run, "--again").code == 0
    for verb in ("score", "calibrate", "evaluate", "report"):
        result = demur(verb, run)
        assert result.code == 2
        assert re.search(
            r"the model was trained on [\d,]+ of [\d,]+ rows|is out of date", result.err
        )
    assert re.search(
        r"the calibrate split of .*: the model was trained on .* first 'builtin",
        demur("score", run).err,
    )


def test_a_damaged_score_file_is_named(demur, run):
    path = RunFolder(run).scores("calibrate")
    path.write_bytes(path.read_bytes()[:-100])
    result = demur("calibrate", run, "--goal", "youden max")
    assert result.code == 2
    assert str(path) in result.err
    assert "demur score" in result.err


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
    assert "368 could" in result.err
    assert "'missed_refusal[safety] <= 0.01' blocks" in result.err
    assert "rows to be refused with safety (20 are there)" in result.err
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
    assert "rows labelled by hand" in result.err
