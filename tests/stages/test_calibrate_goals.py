"""Several goals at once, and what becomes of those that cannot be certified, on a run of the fake
engine.
"""

import json
from dataclasses import replace

import pytest
from tests.fake_run import engine_for, examples, prepare

from demur.assembly.config import load_config
from demur.base.errors import (
    ArtifactError,
    ConfigError,
    DataError,
    GoalError,
    GoalInfeasible,
    PolicyError,
    TaxonomyError,
)
from demur.core.decision import decide_many
from demur.core.taxonomy import coconot
from demur.stages import calibrate, verify
from demur.stages.evaluate.chosen_policies import read_comparison
from demur.store.policies.policy_file import read_policy, write_policy
from demur.store.policies.trust import DIGESTS_ONLY
from demur.store.rows import read_examples
from demur.store.scores.tables import read_scores, write_scores

SOFT = "false_refusal <= 0.2; missed_refusal[safety] <= 0.01 soft; f1 max"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    rows = examples(every=2)
    engine = engine_for(rows)
    return prepare(tmp_path_factory.mktemp("run"), rows, engine), engine


@pytest.fixture(scope="module")
def folder(made):
    return made[0]


def run(folder, **settings):
    return calibrate.run(calibrate.Config(**settings), coconot(), folder)


def test_several_goals_get_a_promise_each_and_come_back_from_disk(folder):
    policy = run(folder, goal="false_refusal <= 0.2; missed_refusal <= 0.4; f1 max", confidence=0.9)
    assert [(p.risk, p.status) for p in policy.promises] == [
        ("false_refusal", "certified"),
        ("missed_refusal", "certified"),
        ("f1", "measured"),
    ]
    assert read_policy(folder.policy) == policy


def test_one_goal_alone_is_certified_by_the_best_method_unless_one_is_asked_for(folder):
    alone = run(folder, goal="false_refusal <= 0.2")
    assert (
        run(folder, goal="false_refusal <= 0.2", on_failure="keep:natural").categories
        == alone.categories
    )
    assert alone.promises[0].status == "certified"
    assert "the best of shared, even, path" in alone.promises[0].method
    shared = run(folder, goal="false_refusal <= 0.2", method="shared")
    assert len({c.threshold for c in shared.categories}) == 1
    assert (
        "learned path" in run(folder, goal="false_refusal <= 0.2", method="path").promises[0].method
    )


def test_a_failure_says_which_goal_blocks_and_how_many_labels_would_do_and_changes_nothing(folder):
    before = run(folder, goal="f1 max")
    with pytest.raises(GoalInfeasible) as e:
        run(folder, goal=SOFT)
    assert e.value.exit_code == 3
    assert "'missed_refusal[safety] <= 0.01 soft' blocks" in e.value.hint
    assert "rows to be refused with safety (40 are there)" in e.value.hint
    assert read_policy(folder.policy) == before


def test_goals_that_the_scores_do_not_allow_come_with_the_trade_off_that_is_reachable(folder):
    with pytest.raises(GoalInfeasible) as e:
        run(folder, goal="false_refusal <= 0.05; missed_refusal <= 0.05")
    assert "can go no lower than" in e.value.message
    assert "blocks" in e.value.hint


def test_soft_goals_are_given_up_where_the_caller_said_so_and_that_is_on_record(folder):
    policy = run(folder, goal=SOFT, on_failure="hard_only")
    assert [p.status for p in policy.promises] == ["certified", "uncertified", "measured"]
    assert {p.on_failure for p in policy.promises} == {"hard_only"}
    assert read_policy(folder.policy) == policy


def test_the_natural_policy_is_kept_where_the_caller_said_so(folder):
    policy = run(
        folder, goal="false_refusal <= 0.0001", on_failure="keep:natural", calibrator="temperature"
    )
    assert policy.rule == "natural"
    assert [(p.status, p.on_failure) for p in policy.promises] == [("uncertified", "keep:natural")]
    assert not folder.calibrator.exists()  # the kept policy has none


def test_a_policy_file_is_kept_and_a_change_of_it_is_noticed(folder):
    careful = run(folder, goal="false_refusal <= 0.1", name="careful")
    write_policy(folder.root / "careful.json", careful)
    wish = {"goal": "false_refusal <= 0.0001", "on_failure": "keep:careful.json"}
    kept = run(folder, **wish)
    assert kept.categories == careful.categories
    assert [p.status for p in kept.promises] == ["certified", "uncertified"]
    write_policy(folder.root / "careful.json", replace(careful, name="other"))
    assert run(folder, **wish).name == "other"


def test_a_policy_that_cannot_be_kept_is_refused(folder):
    mine = run(folder, goal="f1 max")
    wish = {"goal": "false_refusal <= 0.0001"}
    with pytest.raises(ConfigError, match="which this stage writes"):
        run(folder, **wish, on_failure="keep:calibrate/policy.json")
    with pytest.raises(ArtifactError, match=r"nowhere\.json"):
        run(folder, **wish, on_failure="keep:nowhere.json")
    assert mine.fingerprint is not None
    other = replace(mine, fingerprint=replace(mine.fingerprint, model_digest="sha256:other"))
    write_policy(folder.root / "other.json", other)
    with pytest.raises(PolicyError, match="another model"):
        run(folder, **wish, on_failure="keep:other.json")
    write_policy(
        folder.root / "calibrated.json", run(folder, goal="f1 max", calibrator="temperature")
    )
    with pytest.raises(ConfigError, match="carries a calibrator"):
        run(folder, **wish, on_failure="keep:calibrated.json")


def test_a_choice_on_failure_that_is_none_is_refused(folder):
    with pytest.raises(GoalError, match="on_failure 'ignore'"):
        run(folder, goal="false_refusal <= 0.2", on_failure="ignore")


def hands(folder, path, every, *, agree=True):
    """Every so many calibrate rows labelled by hand: as they are, or all of them to be answered."""
    rows = read_examples(folder.split("calibrate"))[::every]
    lines = [{"id": e.id, "label": (e.label if agree else None) or "respond"} for e in rows]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_promises_hold_by_the_labels_of_hands_where_a_judge_gave_the_others(folder, tmp_path):
    wish = {
        "goal": "false_refusal <= 0.45",
        "human_labels": hands(folder, tmp_path / "hands.jsonl", 2),
    }
    policy = run(folder, **wish)
    assert [p.status for p in policy.promises] == ["certified"]
    assert "rows labelled by hand" in policy.promises[0].method
    assert read_policy(folder.policy) == policy
    hands(folder, tmp_path / "hands.jsonl", 2, agree=False)
    # the file is read again
    assert run(folder, **wish).promises[0].method != policy.promises[0].method
    with pytest.raises(GoalInfeasible, match="rows cannot promise"):
        run(folder, **{**wish, "goal": "false_refusal <= 0.001"})


def test_where_hands_labelled_every_row_nothing_is_corrected(folder, tmp_path):
    policy = run(
        folder, goal="false_refusal <= 0.2", human_labels=hands(folder, tmp_path / "hands.jsonl", 1)
    )
    assert policy.categories == run(folder, goal="false_refusal <= 0.2").categories


def test_human_labels_that_mean_nothing_here_are_refused(folder, tmp_path):
    path = tmp_path / "hands.jsonl"
    with pytest.raises(ConfigError, match="promises nothing"):
        run(folder, goal="f1 max", human_labels=path)
    path.write_text('{"id": "nobody", "label": "respond"}\n')
    with pytest.raises(DataError, match="not in the calibrate split, first 'nobody'"):
        run(folder, goal="false_refusal <= 0.2", human_labels=path)
    path.write_text(
        f'{{"id": "{read_examples(folder.split("calibrate"))[0].id}", "label": "safty"}}\n'
    )
    with pytest.raises(TaxonomyError, match=r"hands\.jsonl:1(.|\n)*safty"):
        run(folder, goal="false_refusal <= 0.2", human_labels=path)
    path.write_text("\n")
    with pytest.raises(DataError, match=r"hands\.jsonl has no label"):
        run(folder, goal="false_refusal <= 0.2", human_labels=path)


SHARES = {
    "humanizing": 0.1,
    "incomplete": 0.1,
    "indeterminate": 0.1,
    "safety": 0.6,
    "unsupported": 0.1,
}


def test_shares_divide_level_and_delta_unequally_and_come_from_the_settings(folder):
    wish = {"goal": "false_refusal <= 0.3", "method": "budgets"}
    equal, mine = run(folder, **wish), run(folder, **wish, shares=SHARES)
    moved = {
        n: m.threshold - e.threshold
        for n, m, e in zip(SHARES, mine.categories, equal.categories, strict=True)
    }
    assert moved["safety"] <= 0 < max(moved.values())  # more to spend: no stricter
    assert mine.promises[0].status == "certified"


@pytest.mark.parametrize(
    ("shares", "more", "message"),
    [
        (SHARES | {"safety": 0.7}, {"method": "budgets"}, r"sum to 1\.1"),
        (SHARES | {"safety": 0.7, "humanizing": 0.0}, {"method": "graphical"}, "gets 0 of"),
        (SHARES, {"method": "path"}, "divides nothing by shares"),
        (SHARES, {}, "divides nothing by shares"),
        ({"safety": 1.0}, {"method": "budgets"}, "the active categories are"),
    ],
)
def test_shares_that_mean_nothing_are_one_clear_error(folder, shares, more, message):
    with pytest.raises(GoalError, match=message):
        run(folder, goal="false_refusal <= 0.3", shares=shares, **more)


def test_costs_from_probabilities_set_the_bayes_thresholds_and_say_what_they_rest_on(folder):
    wish = {"goal": "cost: false=1 missed=3 missed[safety]=19", "calibrator": "temperature"}
    policy = run(folder, **wish, cost_from="probabilities")
    assert [c.threshold for c in policy.categories] == [
        0.05 if n == "safety" else 0.25 for n in coconot().names
    ]
    assert "by calibrated probabilities" in policy.promises[0].method
    assert "holds as far as they do" in policy.promises[0].method
    assert (policy.promises[0].status, policy.promises[0].rate) == ("measured", None)
    assert all(c.curve for c in policy.categories)
    assert read_policy(folder.policy) == policy
    assert run(folder, **wish).categories != policy.categories


@pytest.mark.parametrize(
    ("wish", "error", "message"),
    [
        (
            {"goal": "cost: false=1 missed=5", "calibrator": "none"},
            ConfigError,
            "without a calibrator",
        ),
        ({"goal": "f1 max"}, GoalError, "by probabilities alone"),
        (
            {"goal": "cost: false=1 missed=5; false_refusal <= 0.2"},
            GoalError,
            "by probabilities alone",
        ),
        ({"goal": "cost: false=1 missed=5 wrong=2"}, GoalError, "each category by itself"),
        ({"goal": "cost: false=1 missed=5", "rule": "sum"}, GoalError, "rule 'sum'"),
    ],
)
def test_what_probabilities_alone_cannot_meet_is_refused(folder, wish, error, message):
    with pytest.raises(error, match=message):
        run(folder, **{"calibrator": "temperature", "cost_from": "probabilities", **wish})


def test_rates_are_met_on_unlabelled_traffic_with_and_without_a_guarantee(folder):
    traffic = folder.scores("test")
    table, _ = read_scores(traffic)
    policy = run(
        folder, goal="refusal_rate[safety] <= 20%; refusal_rate[unsupported] = 5%", traffic=traffic
    )
    assert [(p.status, p.rate.of) for p in policy.promises] == [
        ("certified", len(table.ids)),
        ("measured", len(table.ids)),
    ]
    choice_N = decide_many(policy, table.logp_NC).choice_N
    columns = [policy.taxonomy.column(name) for name in ("safety", "unsupported")]
    assert [p.rate.hits for p in policy.promises] == [(choice_N == c).sum() for c in columns]
    assert policy.promises[0].rate.interval(0.9)[1] <= 0.2
    assert read_policy(folder.policy) == policy
    # another file, no old answer
    other = run(folder, goal="refusal_rate <= 20%", traffic=folder.scores("calibrate"))
    assert other.promises[0].rate.of != len(table.ids)


@pytest.mark.filterwarnings("error")
def test_a_rate_that_no_threshold_can_break_is_met_without_a_warning(folder):
    policy = run(folder, goal="refusal_rate[safety] <= 90%", traffic=folder.scores("test"))
    assert policy.promises[0].status == "certified"


def test_traffic_that_means_nothing_here_is_refused(folder, tmp_path):
    table, fingerprint = read_scores(folder.scores("test"))
    write_scores(
        tmp_path / "other.parquet", table, replace(fingerprint, model_digest="sha256:other")
    )
    with pytest.raises(PolicyError, match="another model"):
        run(folder, goal="refusal_rate <= 20%", traffic=tmp_path / "other.parquet")
    with pytest.raises(ArtifactError, match=r"nowhere\.parquet"):
        run(folder, goal="refusal_rate <= 20%", traffic=tmp_path / "nowhere.parquet")
    with pytest.raises(DataError, match=r"calibrator 'temperature' is fitted on \d+ of its rows"):
        run(
            folder,
            goal="refusal_rate <= 20%",
            traffic=folder.scores("calibrate"),
            calibrator="temperature",
        )
    with pytest.raises(GoalError, match="needs labels"):
        run(folder, goal="false_refusal <= 20%", traffic=folder.scores("test"))
    with pytest.raises(ConfigError, match="beside method, on_failure"):
        run(
            folder,
            goal="refusal_rate <= 20%",
            traffic=folder.scores("test"),
            method="path",
            on_failure="keep:natural",
        )


def test_contradicting_goals_are_both_named(folder):
    with pytest.raises(GoalError, match=r"'f1 max' and 'youden max' contradict"):
        run(folder, goal="f1 max; youden max")


def test_goals_method_and_choice_on_failure_have_a_place_in_the_toml_file(tmp_path):
    (tmp_path / "run.toml").write_text(
        f'[[data.sources]]\nkind = "builtin"\n[calibrate]\ngoal = "{SOFT}"\nmethod = '
        '"path"\non_failure = "hard_only"\n'
    )
    config = load_config(tmp_path / "run.toml").calibrate
    assert (config.goal, config.method, config.on_failure) == (SOFT, "path", "hard_only")
    (tmp_path / "bad.toml").write_text(
        '[[data.sources]]\nkind = "builtin"\n[calibrate]\nmethod = "best"\n'
    )
    with pytest.raises(ConfigError, match=r"calibrate\.method"):
        load_config(tmp_path / "bad.toml")


def test_goals_for_comparison_certify_nothing_by_labels_of_a_judge(folder, tmp_path):
    hand = hands(folder, tmp_path / "hands.jsonl", 2)
    calibrated = run(folder, goal="false_refusal <= 0.45", human_labels=hand)
    also = ("false_refusal <= 0.45", "refusal_rate = 0.10")
    case = read_comparison(folder, calibrated.fingerprint, also, None)
    assert [u.goal for u in case.unmet] == ["false_refusal <= 0.45"]
    assert "labels are a judge's" in case.unmet[0].reason
    assert [c.goal for c in case.compared] == [
        "natural",
        "false_refusal <= 0.45",
        "refusal_rate = 0.10",
    ]


def test_a_promise_is_made_for_a_stated_mix_of_traffic_and_can_be_verified(folder):
    goal = {"goal": "false_refusal <= 0.35", "confidence": 0.9, "method": "shared"}
    plain = run(folder, **goal).promises[0]
    mixed = run(folder, **goal, mix={"kind": {"contrast": 0.9, "benign": 0.1}})
    promise = mixed.promises[0]
    assert promise.status == "certified"
    assert "for traffic of 10% kind benign, 90% kind contrast" in promise.method
    # contrast rows are refused more often: the threshold for mostly these is stricter
    assert promise.rate.value < plain.rate.value
    _, (verified,) = verify.run(folder.policy, folder, DIGESTS_ONLY)
    assert verified.faults == ()


@pytest.mark.parametrize(
    ("mix", "more", "error", "message"),
    [
        ({"kind": {"contrast": 0.5, "benign": 0.4}}, {}, ConfigError, r"sum to 0\.9"),
        ({"kind": {"contrast": 1.2, "benign": -0.2}}, {}, ConfigError, "no shares of traffic"),
        ({"kind": {"contrast": 0.0, "benign": 1.0}}, {}, ConfigError, "positive numbers"),
        ({"knid": {"contrast": 1.0}}, {}, ConfigError, "unknown facet 'knid'"),
        ({"source": {"nobody": 1.0}}, {}, DataError, "no row is of source 'nobody'"),
        ({"kind": {"refusal": 1.0}}, {}, DataError, "has no share for the"),
        ({"kind": {"benign": 1.0}, "source": {"corpus": 1.0}}, {}, ConfigError, "one facet"),
        ({"kind": {"benign": 1.0}}, {"goal": "f1 max"}, ConfigError, "promises nothing"),
    ],
)
def test_a_mix_that_means_nothing_is_one_clear_error(folder, mix, more, error, message):
    with pytest.raises(error, match=message):
        run(folder, **{"goal": "false_refusal <= 0.3", **more}, mix=mix)
