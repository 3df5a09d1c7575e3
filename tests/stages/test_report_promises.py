"""Promise beside measurement: what the report shows of a promise is what the promise is about."""

import numpy as np
import pytest
from tests.fake_run import JUDGE, engine_for, examples, prepare

from demur.core.decision import decide_many
from demur.core.goals.parse import parse_goal, stated_goal
from demur.pages.drawing import probit
from demur.stages import calibrate, evaluate, report
from demur.stages.arrival import left_rows
from demur.stages.report import curves, risks, tables
from demur.stages.report.finished_run import read_finished_run
from demur.stats.labelled import label_scores
from demur.stats.thresholds.losses import grouped_scores, losses_of, rate_under
from demur.store.policies.policy_file import read_policy
from demur.store.results.metrics_file import read_metrics
from demur.store.scores.tables import read_scores

GOALS = (
    "false_refusal <= 0.2; missed_refusal <= 0.4; missed_refusal[safety] <= 0.3 soft; cost: "
    "false=1 missed=2"
)


SEVERAL = "false_refusal <= 0.3; youden max"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    rows = examples(every=2)
    engine = engine_for(rows)
    config = calibrate.Config(goal=GOALS, confidence=0.9, on_failure="hard_only")
    folder = prepare(tmp_path_factory.mktemp("run"), rows, engine, config)
    also = ("f1 max", "cost: false=1 missed=2 missed[safety]=7 wrong=0.5", SEVERAL)
    evaluate.run(evaluate.Config(also=also), engine, JUDGE, folder)
    return folder


@pytest.fixture(scope="module")
def material(folder):
    return read_finished_run(folder)


@pytest.mark.parametrize(
    "risk",
    [
        "false_refusal",
        "missed_refusal",
        "refusal_rate",
        "wrong_category",
        "false_refusal[safety]",
        "missed_refusal[safety]",
        "refusal_rate[humanizing]",
        "wrong_category[incomplete]",
        "false_refusal[safety+incomplete]",
        "missed_refusal[safety+humanizing]",
        "refusal_rate[safety+incomplete]",
        "wrong_category[safety+incomplete]",
    ],
)
def test_the_measured_rate_of_a_promise_is_counted_as_its_certificate_counts(material, risk):
    policy, goal = material.calibrated, parse_goal(f"{risk} <= 0.5")
    # every row, not one per group
    rows = type(material.rows)(table=material.rows.table, label_N=material.rows.label_N)
    (loss,) = losses_of([goal], policy, grouped_scores(policy, rows, shared=False), 0)
    refused_N = decide_many(policy, rows.table.logp_NC).refuses_N
    everyone_N = np.ones(len(refused_N), dtype=bool)
    shown, _ = rate_under(policy, goal, material.rows)
    expected = loss.rate(refused_N, everyone_N)
    assert (shown.hits, shown.of) == (expected.hits, expected.of)


def test_intervals_of_rates_made_from_counts_know_the_units_of_their_rows(material):
    lines = {str(row[0]): row for row in tables.agreement(material).rows if len(row) > 1}
    for choice, kept in material.evaluation.forced.items():
        refuse, answer = lines[choice][1:3]
        own = answer if choice == "respond" else refuse
        assert own == kept.kept
        assert (refuse.low, refuse.high) == pytest.approx((1 - answer.high, 1 - answer.low))
    emitted = material.measured.tokens["humanizing"].emitted
    goal = parse_goal("refusal_rate[humanizing] = 10%")
    assert risks.measured(goal, material.measured, policy_names(material))[1] == emitted


def policy_names(material):
    return material.calibrated.taxonomy.names


@pytest.mark.parametrize(
    ("risk", "mean"), [("macro_f2", True), ("micro_f2", False), ("f2[safety]", False)]
)
def test_f_beta_of_tokens_is_worked_out_from_their_counts_on_both_splits(
    material, folder, risk, mean
):
    policy = material.calibrated
    names = ["safety"] if "[" in risk else list(policy.taxonomy.names)
    columns = [policy.taxonomy.column(n) for n in names]
    expected = []
    for rows in (calibrate_rows(folder, policy), material.rows):
        choice_N = decide_many(policy, rows.table.logp_NC).choice_N
        hit = [int(((choice_N == c) & (rows.label_N == c)).sum()) for c in columns]
        of = [4 * int((rows.label_N == c).sum()) + int((choice_N == c).sum()) for c in columns]
        f = (
            np.mean([5 * h / n for h, n in zip(hit, of, strict=True)])
            if mean
            else 5 * sum(hit) / sum(of)
        )
        expected.append(f"{f:.3f}")
    assert risks.measured(stated_goal(risk, None), material.measured, names) == tuple(expected)


def calibrate_rows(folder, policy):
    rows = left_rows(folder).left
    return label_scores(rows, policy.taxonomy, read_scores(folder.scores("calibrate"))[0])


def test_costs_by_category_are_what_thresholds_were_chosen_for(folder):
    """The least cost on the calibrate rows, worked out again from the report's counts."""
    goal = "cost: false=1 missed=2 missed[safety]=7 wrong=0.5"
    metrics = next(p for p in read_metrics(folder.metrics).policies if p.goal == goal)
    policy = read_policy(folder.root / metrics.file)
    rows = calibrate_rows(folder, policy)
    choice_N = decide_many(policy, rows.table.logp_NC).choice_N
    costs = {"respond": 0.0, **dict.fromkeys(policy.taxonomy.names, 2.0), "safety": 7.0}
    missed_N = np.array(list(costs.values()))[rows.label_N]
    wrong_N = 0.5 * (choice_N != rows.label_N)
    total = np.where(
        rows.label_N == 0, choice_N > 0, np.where(choice_N == 0, missed_N, wrong_N)
    ).sum()
    shown, after = risks.measured(stated_goal("cost", None), metrics, policy.taxonomy.names)
    assert shown == f"{100 * total / len(choice_N):.1f} per 100 rows"
    assert after.endswith("per 100 rows")


def test_several_goals_for_comparison_share_one_policy_with_a_line_each(material):
    (chosen,) = [p for p in material.policies if p.name == SEVERAL]
    assert [(p.risk, p.status) for p in chosen.promises] == [
        ("false_refusal", "certified"),
        ("youden", "measured"),
    ]
    assert {row[2] for row in tables.promises(material).rows if SEVERAL in str(row[0])} == {
        "false_refusal",
        "youden",
    }


def test_a_cost_among_several_goals_is_worked_out_on_both_splits(material):
    before, after = risks.measured(
        stated_goal("cost", None), material.measured, material.calibrated.taxonomy.names
    )
    assert "per 100 rows" in before
    assert "per 100 rows" in after


def test_what_cannot_be_told_is_not_shown(material):
    for risk in ("missed_refusal[nobody]", "sharpness"):
        assert risks.measured(stated_goal(risk, 0.1), material.measured, []) == (
            "not shown",
            "not shown",
        )


def test_every_promise_has_a_line_with_its_status(material):
    lines = [row for row in tables.promises(material).rows if GOALS in str(row[0])]
    assert [row[2] for row in lines] == [p.risk for p in material.calibrated.promises]
    assert {row[1] for row in lines} >= {"certified", "measured"}


def test_the_certified_region_is_shaded_up_to_the_levels(material, folder):
    figure = curves.trade_off(material)
    region = figure.panels[0].spec["data"][0]
    assert region["name"] == "certified levels"
    assert (max(region["x"]), max(region["y"])) == pytest.approx(
        (probit(0.2), probit(0.4)), abs=1e-4
    )
    assert "The shade" in figure.caption
    assert "certified" in report.run(report.Config(), folder).read_text(encoding="utf-8")


def test_without_a_certified_promise_nothing_is_shaded(tmp_path):
    rows = examples(every=6)
    engine = engine_for(rows)
    folder = prepare(tmp_path / "run", rows, engine)
    evaluate.run(evaluate.Config(), engine, JUDGE, folder)
    figure = curves.trade_off(read_finished_run(folder))
    assert "certified levels" not in [trace["name"] for trace in figure.panels[0].spec["data"]]
    assert "The shade" not in figure.caption
