"""Which procedure gets most of delta beside a judge: rows that no goal is tested on choose it."""

from dataclasses import replace

import numpy as np
import pytest

from demur.core.goals.parse import parse_goals
from demur.core.rates import most_errors
from demur.core.score import ScoreTable
from demur.stats.labelled import UNCHECKED
from demur.stats.thresholds.certify import CertifyOptions, Granted, certify, tries
from demur.stats.thresholds.procedures.requests import CertifyCase, counted_by_hand
from tests.builders import policy, simulated_rows

DELTA = 0.1


def judged_rows(hands=300, seed=1, errs=0.1):
    rows = simulated_rows(3000, 3, seed=seed, signal=3.0)
    rng = np.random.default_rng(seed)
    hand_N = np.full(3000, UNCHECKED)
    at = rng.permutation(3000)[:hands]
    hand_N[at] = rows.label_N[at]
    wrong_N = rng.random(3000) < errs
    label_N = np.where(wrong_N, np.where(rows.label_N == 0, 1, 0), rows.label_N)
    return replace(rows, label_N=label_N, hand_N=hand_N)


def tried(rows, text="false_refusal <= 0.1", **settings):
    case = CertifyCase(
        goals=parse_goals(text),
        template=policy(3),
        rows=rows,
        method=settings.get("method", "auto"),
        confidence=1 - DELTA,
        seed=0,
        learning=0.4,
        shares=None,
    )
    case = counted_by_hand(case, case.goals)
    return [(method, task.delta) for method, task in tries(case, case.goals, DELTA)]


@pytest.mark.parametrize("text", ["false_refusal <= 0.1", "missed_refusal <= 0.2"])
def test_the_first_may_err_as_often_as_all_of_delta_allows_and_the_shares_sum_to_no_more(text):
    rows = judged_rows()
    methods = tried(rows, text)
    kind_N = (rows.hand_N > 0) if "missed" in text else (rows.hand_N == 0)
    level = parse_goals(text)[0].level
    allowed = [most_errors(int(kind_N.sum()), level, delta) for _, delta in methods]
    assert allowed[0] == most_errors(int(kind_N.sum()), level, DELTA)
    assert allowed == sorted(allowed, reverse=True)
    assert sum(delta for _, delta in methods) <= DELTA
    assert len(methods) >= 2


@pytest.mark.parametrize("text", ["false_refusal <= 0.1", "missed_refusal <= 0.2"])
def test_no_score_and_no_judgement_of_a_tested_row_chooses(text):
    rows = judged_rows()
    tested_N = (rows.hand_N > 0) if "missed" in text else (rows.hand_N == 0)
    rng, logp_NC = np.random.default_rng(9), rows.table.logp_NC.copy()
    logp_NC[tested_N] = logp_NC[rng.permutation(3000)[: tested_N.sum()]]
    other = replace(
        rows,
        table=ScoreTable(ids=rows.table.ids, logp_NC=logp_NC),
        label_N=np.where(tested_N, rng.integers(0, 4, 3000), rows.label_N),
    )
    assert tried(other, text) == tried(rows, text)


def test_one_threshold_comes_first_beside_a_judge_that_is_hardly_to_be_believed():
    assert tried(judged_rows(errs=0.9))[0][0] == "shared"


def test_delta_is_divided_evenly_where_no_rows_are_left_to_choose_by():
    both = tried(judged_rows(), "false_refusal <= 0.2; missed_refusal <= 0.2")
    assert len({delta for _, delta in both}) == 1
    assert tried(judged_rows(), method="path") == [("path", DELTA)]
    # of so few rows labelled by hand hardly one is to be refused
    few = judged_rows(hands=12)
    assert len({delta for _, delta in tried(few, "false_refusal <= 0.3")}) == 1


def test_the_method_says_at_which_delta_each_was_tried():
    found = certify(
        parse_goals("false_refusal <= 0.1"),
        policy(3),
        judged_rows(),
        CertifyOptions(confidence=0.9),
    )
    assert isinstance(found, Granted)
    assert "the best of " in found.certified.method
    assert found.certified.method.count(" at delta ") >= 2
