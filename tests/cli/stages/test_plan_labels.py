import json

import pytest


def test_a_plan_is_printed_in_plain_words_without_a_run(demur):
    result = demur(
        "plan-labels", "--goal", ("false_refusal <= "
            "0.05"), "--goal", "missed_refusal[safety] <= 0.05",
        "--have", "respond=400", "--have", "safety=30",
    )  # fmt: skip
    assert result.code == 0
    assert (
        # 11 at all of delta, which "auto" divides over two methods
        "false_refusal <= 0.05: can be certified with 400 labels, if they show at most 10 errors"
        in result.err
    )
    assert (
        "not with 30 labels, which can promise a level of 11.57% at best; 72 labels" in result.err
    )
    assert "to be refused with safety" in result.out
    assert "these names are unchecked: safety\n" in result.err


def test_a_plan_without_labels_says_how_many_would_do(demur):
    result = demur("plan-labels", "--goal", "false_refusal <= 0.05", "--json")
    assert result.code == 0
    (row,) = json.loads(result.out)
    assert (row["have"], row["needed"]) == (None, 59)
    assert (
        "unchecked"
        not in demur("plan-labels", "--goal", "false_refusal <= 0.05", "--have", "respond=9").err
    )


@pytest.mark.parametrize("have", ["safety", "safety=many", "=3", "safety=-1"])
def test_a_count_that_cannot_be_read_says_how_to_write_it(demur, have):
    result = demur("plan-labels", "--goal", "missed_refusal <= 0.05", "--have", have)
    assert result.code == 2
    assert "--have KIND=N" in result.err


def test_shares_are_read_and_one_that_is_none_says_how_to_write_it(demur):
    plan = ("plan-labels", "--goal", "false_refusal <= 0.05", "--method", "budgets")
    assert demur(*plan, "--share", "safety=0.6", "--share", "humanizing=0.4").code == 0
    assert "--share NAME=SHARE" in demur(*plan, "--share", "safety=much").err
    assert "sum to 0.6" in demur(*plan, "--share", "safety=0.6").err


def test_a_goal_is_asked_for(demur):
    result = demur("plan-labels")
    assert result.code == 2
    assert "no goal is named" in result.err


def test_a_run_is_counted_itself_and_must_be_one(demur, tmp_path):
    goal = ("plan-labels", "--goal", "false_refusal <= 0.05", tmp_path)
    assert "is not a run folder" in demur(*goal).err
    result = demur(*goal, "--have", "respond=400")
    assert result.code == 2
    assert "--have 'respond=400' beside" in result.err


def test_goals_that_the_rows_cannot_certify_are_said_after_data_before_training(demur, tmp_path):
    config = tmp_path / "run.toml"
    config.write_text(
        '[[data.sources]]\nkind = "builtin"\n[calibrate]\n'
        'goal = "missed_refusal <= 0.02 in every category; false_refusal <= 0.1; f1 max"\n'
    )
    result = demur("data", config, "--out", tmp_path / "run")
    assert result.code == 0
    warned = [
        line for line in result.err.splitlines() if line.startswith("warning: missed_refusal[")
    ]
    assert len(warned) == 5
    # 183 pieces of evidence at delta 0.025; 194 where rows share groups, whose bets have a fifth
    assert all("183 labels" in line or "194 labels" in line for line in warned)
    assert "warning: false_refusal" not in result.err


def test_errors_at_hand_a_probability_of_success_and_even_shares_are_read(demur):
    goal = ("plan-labels", "--goal", "false_refusal <= 0.05")
    (plain,) = json.loads(demur(*goal, "--json").out)
    (surer,) = json.loads(demur(*goal, "--success", "0.95", "--json").out)
    (seen,) = json.loads(demur(*goal, "--have", "respond=8/400", "--json").out)
    assert plain["likely"] < surer["likely"]
    assert (seen["have"], seen["rate"]) == (400, pytest.approx(8.5 / 401, abs=1e-3))
    divided = demur(*goal, "--method", "budgets", "--share", "5", "--json")
    assert json.loads(divided.out)[0]["needed"] > plain["needed"]
    assert demur(*goal, "--have", "respond=500/400").code == 2
