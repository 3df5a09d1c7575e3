import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from demur.base.errors import GoalError
from demur.core.goals.parse import parse_goals
from demur.core.rates import most_errors
from demur.stats.thresholds.plan import plan_labels, rows_for_errors, rows_likely

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "thresholds.json").read_text())
HAVE = {"respond": 400, "safety": 60, "humanizing": 30}


@pytest.mark.parametrize("expected", GOLDEN["rows_for_zero_errors"])
def test_rows_for_no_error_equal_the_golden_ones(expected):
    assert rows_for_errors(0, expected["alpha"], expected["delta"]) == expected["n"]


@given(
    k=st.integers(0, 40),
    level=st.sampled_from((0.02, 0.1, 0.3)),
    delta=st.sampled_from((0.05, 0.1)),
)
def test_rows_for_errors_is_the_first_number_that_allows_them(k, level, delta):
    n = rows_for_errors(k, level, delta)
    assert most_errors(n, level, delta) == k
    assert (most_errors(n - 1, level, delta) or -1) < k or most_errors(n - 1, level, delta) is None


@pytest.mark.parametrize(("rate", "level"), [(0.0, 0.05), (0.01, 0.05), (0.04, 0.05), (0.09, 0.1)])
def test_likely_rows_certify_in_four_of_five_cases(rate, level):
    n = rows_likely(rate, level, 0.05)
    assert binom.cdf(most_errors(n, level, 0.05), n, rate) >= 0.8


def test_no_number_of_rows_certifies_a_rate_above_its_level():
    assert rows_likely(0.05, 0.05, 0.05) is None
    assert rows_likely(0.0499999, 0.05, 0.05) is None


def test_a_plan_says_before_fitting_what_the_labels_can_carry():
    goals = parse_goals(
        "false_refusal <= 0.05; missed_refusal[safety] <= 0.02; missed_refusal[safety + "
        "humanizing] <= 0.04; wrong_category <= 0.1; refusal_rate <= 0.3"
    )
    false, safety, pooled, wrong, rate = plan_labels(goals, HAVE, confidence=0.9)
    assert (false.have, false.allowed) == (400, most_errors(400, 0.05, 0.1))
    assert (safety.have, safety.allowed, safety.needed) == (60, None, 114)
    assert safety.lowest == pytest.approx(0.0377, abs=1e-3)
    assert (pooled.have, pooled.allowed) == (90, 0)  # pooled, what neither could carry alone
    assert pooled.lowest < safety.lowest
    assert [r.have for r in (wrong, rate)] == [90, 490]
    assert [r.labels for r in (false, pooled)] == [
        "to be answered",
        "to be refused with safety or humanizing",
    ]
    assert all(r.needed <= r.likely for r in (false, safety, pooled, wrong, rate))


def test_thirty_rows_promise_no_less_than_seven_per_cent():
    (row,) = plan_labels(parse_goals("missed_refusal[humanizing] <= 0.02"), HAVE, confidence=0.9)
    assert row.lowest == pytest.approx(0.074, abs=5e-4)


def test_a_plan_needs_no_labels_and_says_nothing_of_them():
    (row,) = plan_labels(parse_goals("false_refusal <= 0.05"))
    assert (row.have, row.allowed, row.lowest, row.needed) == (None, None, None, 59)
    (halved,) = plan_labels(parse_goals("false_refusal <= 0.05"), tested=0.6)
    assert halved.needed == 105  # 4 of 5 splits test 59 of them; half of the splits of 99 do


@pytest.mark.parametrize(
    ("texts", "more", "message"),
    [
        ("f1 max", {}, "promises nothing"),
        ("missed_refusal[nope] <= 0.1", {"have": HAVE}, "no label count of 'nope'"),
        ("false_refusal <= 0.1", {"have": {"respond": -1}}, "not be negative"),
        ("false_refusal <= 0.1", {"confidence": 1.0}, "must be shares"),
        ("false_refusal <= 0.1", {"tested": 0.0}, "must be shares"),
    ],
)
def test_plans_that_make_no_sense_are_refused(texts, more, message):
    with pytest.raises(GoalError, match=message):
        plan_labels(parse_goals(texts), **more)
