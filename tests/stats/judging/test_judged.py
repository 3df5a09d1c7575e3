import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from demur.base.errors import DataError, GoalError, Undefined
from demur.core.goals.parse import parse_goal, parse_goals
from demur.core.rates import Rate
from demur.stats.judging.judged import prediction_powered, rogan_gladen
from demur.stats.labelled import UNCHECKED
from demur.stats.thresholds.certify import CertifyOptions, Granted, certify
from demur.stats.thresholds.results import Uncertified
from tests.builders import corrected_rate, policy, simulated_rows

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


def test_more_checked_rows_certify_more_and_a_worse_judge_less():
    thresholds = []
    for rows, count in (
        (ROWS, 1500),
        (ROWS, 300),
        (replace(ROWS, label_N=np.roll(ROWS.label_N, 1)), 300),
    ):
        hand_N = checked(ROWS, count)
        found = certify(GOALS, policy(2), replace(rows, hand_N=hand_N), CertifyOptions())
        thresholds.append(sum(found.certified.thresholds) if isinstance(found, Granted) else np.inf)
    assert thresholds[0] <= thresholds[1] <= thresholds[2]
    assert thresholds[0] < thresholds[2]


def test_too_few_checked_rows_are_uncertified():
    found = certify(GOALS, policy(2), replace(ROWS, hand_N=checked(ROWS, 10)), CertifyOptions())
    assert isinstance(found, Uncertified)
    assert "rows checked" in found.reason


def test_one_threshold_is_corrected_as_well_and_the_estimate_by_hand_is_on_record():
    rows = replace(ROWS, hand_N=checked(ROWS, 1500))
    found = certify(GOALS, policy(2), rows, CertifyOptions(method="shared"))
    assert isinstance(found, Granted)
    assert len(set(found.certified.thresholds)) == 1
    assert "false_refusal about" in found.certified.method
    assert "rows checked by hand" in found.certified.method


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
    judged = replace(ROWS, hand_N=checked(ROWS, 50))
    with pytest.raises(GoalError, match="has no correction"):
        certify(parse_goals("refusal_rate <= 0.1"), policy(2), judged, CertifyOptions())
    with pytest.raises(GoalError, match="takes labels at their word"):
        certify(GOALS, policy(2), judged, CertifyOptions(method="path"))
    with pytest.raises(DataError, match="labelled none of the 3000"):
        replace(ROWS, hand_N=np.full(3000, UNCHECKED))
    with pytest.raises(DataError, match="has label 7"):
        replace(ROWS, hand_N=np.full(3000, 7))
