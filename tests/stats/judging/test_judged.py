import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from demur.base.errors import DataError, GoalError, Undefined
from demur.core.decision import decide_many
from demur.core.goals.parse import parse_goal, parse_goals
from demur.core.rates import Rate
from demur.stats.judging.judged import prediction_powered, rogan_gladen
from demur.stats.labelled import UNCHECKED
from demur.stats.thresholds.certify import CertifyOptions, Granted, certify
from demur.stats.thresholds.results import Uncertified
from tests.builders import binary_rows, corrected_rate, policy, simulated_rows

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "promises.json").read_text())["judge"]
ROWS = simulated_rows(3000, 2, seed=1, signal=4.0)
GOALS = parse_goals("false_refusal <= 0.2")


def share(rate, of):
    return Rate(hits=round(rate * of), of=of)


def checked(rows, count):
    hand_N = np.full(len(rows.label_N), UNCHECKED)
    at = np.random.default_rng(2).permutation(len(hand_N))[:count]
    hand_N[at] = rows.label_N[at]
    return hand_N


@pytest.mark.parametrize("case", GOLDEN["rogan_gladen"])
def test_rogan_gladen_equals_the_worked_cases(case):
    given = case["in"]
    found = rogan_gladen(
        share(given["apparent"], given["n_apparent"]),
        share(given["sensitivity"], given["n_positive_controls"]),
        share(given["specificity"], given["n_negative_controls"]),
        given["confidence"],
    )
    assert found.value == pytest.approx(case["rogan_gladen"], abs=1e-8)
    assert (found.low, found.high) == pytest.approx(case["lang_reiczigel_interval"], abs=1e-6)


def test_prediction_powered_means_equal_the_worked_case():
    case = GOLDEN["ppi"]
    hand, judge, others = (
        np.array(case[k], dtype=float)
        for k in ("labels_on_judged_sample", "judge_on_labelled", "judge_on_unlabelled")
    )
    found, weight = prediction_powered(hand, judge, others)
    assert weight == pytest.approx(case["ppi_pp_lambda"], abs=1e-8)
    assert found.value == pytest.approx(case["ppi_pp"], abs=1e-8)
    assert (found.high - found.value) / 1.959963985 == pytest.approx(case["ppi_pp_se"], abs=1e-8)


def test_a_judge_that_never_errs_leaves_the_rate_of_all_rows():
    template = policy(2, thresholds=[0.4, 0.4])
    found = corrected_rate(GOALS[0], template, ROWS, checked(ROWS, 500))
    refused_N = ROWS.table.logp_NC[:, 1:].max(axis=1) >= np.log(0.4)
    assert found.value == pytest.approx(refused_N[ROWS.label_N == 0].mean(), abs=0.01)
    assert found.low < found.value < found.high


def by_method(goals, rows, **options):
    found = certify(parse_goals(goals), policy(2), rows, CertifyOptions(**options))
    assert isinstance(found, Granted)
    return found.certified


def test_more_rows_labelled_by_hand_certify_more():
    few, many = (
        by_method("false_refusal <= 0.2", replace(ROWS, hand_N=checked(ROWS, count)))
        for count in (100, 1500)
    )
    assert sum(many.thresholds) < sum(few.thresholds)
    assert "by 1500 rows labelled by hand, a judge labelled the others" in many.method


@pytest.mark.parametrize("method", ["shared", "even", "path", "vectors", "budgets", "graphical"])
def test_every_procedure_tests_on_exactly_the_rows_labelled_by_hand(method):
    hand_N = checked(ROWS, 600)
    wrong = np.random.default_rng(0).integers(0, 3, len(hand_N))  # the judge guesses
    rows = replace(ROWS, label_N=np.where(hand_N == UNCHECKED, wrong, 2 - hand_N), hand_N=hand_N)
    seen = by_method("false_refusal <= 0.2", rows, method=method)
    answer_N = hand_N == 0
    refused_N = decide_many(
        policy(2, thresholds=list(seen.thresholds)), ROWS.table.logp_NC
    ).refuses_N
    assert seen.evidence[0].rate == Rate(
        hits=int((refused_N & answer_N).sum()), of=int(answer_N.sum())
    )


@pytest.mark.parametrize(
    "goals",
    [
        "wrong_category <= 0.2",
        "false_refusal <= 0.2; refusal_rate <= 0.7",
        "missed_refusal <= 0.2; f1 max",
    ],
)
def test_all_goals_that_exact_tests_know_hold_by_the_hands_labels(goals):
    hand_N = checked(ROWS, 600)
    seen = by_method(goals, replace(ROWS, label_N=np.roll(ROWS.label_N, 1), hand_N=hand_N))
    assert all(e.rate.of <= 600 for e in seen.evidence)
    assert [e.goal.level for e in seen.evidence] == [
        g.level for g in parse_goals(goals) if g.promised
    ]


def test_a_rate_that_counts_no_label_is_tested_on_all_rows():
    seen = by_method("refusal_rate <= 0.5", replace(ROWS, hand_N=checked(ROWS, 50)))
    assert seen.evidence[0].rate.of > 1500


def test_too_few_rows_labelled_by_hand_are_uncertified_with_the_number_that_would_do():
    found = certify(GOALS, policy(2), replace(ROWS, hand_N=checked(ROWS, 15)), CertifyOptions())
    assert isinstance(found, Uncertified)
    assert found.rows < found.rows_needed == 14
    none_N = np.where(ROWS.label_N == 0, UNCHECKED, checked(ROWS, 100))
    with pytest.raises(DataError, match=r"none of the .* labelled by hand is to be answered"):
        certify(GOALS, policy(2), replace(ROWS, hand_N=none_N), CertifyOptions())


def test_a_correction_is_tried_where_it_may_beat_exact_tests_and_only_there():
    goals = parse_goals("false_refusal <= 0.2")
    many = simulated_rows(20_000, 2, seed=1, signal=4.0)
    for rows, count, tried in ((many, 3000, True), (ROWS, 300, False)):
        judged = replace(rows, hand_N=checked(rows, count))
        found = certify(goals, policy(2), judged, CertifyOptions(explained=False))
        assert isinstance(found, Granted)
        assert ("and corrected at" in found.certified.method) is tried
    linked = replace(many, hand_N=checked(many, 3000), group_N=np.arange(20_000) // 2)
    found = certify(goals, policy(2), linked, CertifyOptions(explained=False))
    assert "corrected" not in found.certified.method


def test_linked_rows_labelled_by_hand_are_tested_by_units_and_by_requests():
    """Nine in ten rows are copies that never err: the rate is low by requests, not by units."""
    rng = np.random.default_rng(0)
    single_N = np.arange(3000) < 300
    logit_N = np.where(single_N, rng.normal(0.0, 1.0, 3000), -6.0)
    label_N = np.where(rng.random(3000) < 0.2, 1, 0)
    logit_N[label_N == 1] = rng.normal(0.0, 2.0, int(label_N.sum()))
    rows = binary_rows(-np.logaddexp(0.0, -logit_N), label_N)
    groups_N = np.where(single_N, np.arange(3000), 3000 + np.arange(3000) // 90)
    judged = replace(rows, hand_N=checked(rows, 1500))
    goals = parse_goals("false_refusal <= 0.1")
    refused = []
    for own in (judged, replace(judged, group_N=groups_N)):
        found = certify(goals, policy(1), own, CertifyOptions())
        assert isinstance(found, Granted)
        assert len(found.certified.evidence) == 1
        refused.append(found.certified.thresholds[0])
    # alone, half of 300 rows may be refused; as units they are nine in ten of all
    assert refused[0] < refused[1]


def test_soft_goals_are_given_up_under_a_judge_too():
    rows = replace(ROWS, hand_N=checked(ROWS, 1500))
    goals = parse_goals("false_refusal <= 0.2; missed_refusal[humanizing] <= 0.001 soft")
    found = certify(goals, policy(2), rows, CertifyOptions(on_failure="hard_only", explained=False))
    assert isinstance(found, Granted)
    assert found.given_up == goals[1:]


def test_bad_input_is_refused():
    with pytest.raises(Undefined, match="carry no information"):
        rogan_gladen(share(0.5, 100), share(0.5, 100), share(0.5, 100))
    with pytest.raises(Undefined, match="1 checked rows"):
        prediction_powered(np.ones(1), np.ones(1), np.ones(5))
    with pytest.raises(DataError, match="0 known"):
        corrected_rate(GOALS[0], policy(2), ROWS, np.full(3000, UNCHECKED))
    with pytest.raises(GoalError, match="has no correction"):
        corrected_rate(parse_goal("refusal_rate <= 0.1"), policy(2), ROWS, checked(ROWS, 50))
    with pytest.raises(DataError, match="labelled none of the 3000"):
        replace(ROWS, hand_N=np.full(3000, UNCHECKED))
    with pytest.raises(DataError, match="has label 7"):
        replace(ROWS, hand_N=np.full(3000, 7))
