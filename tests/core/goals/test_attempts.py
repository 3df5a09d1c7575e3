"""Attempts on the same rows: plans that divide delta, and the confidence that remains."""

import pytest

from demur.base.errors import ConfigError
from demur.core.goals.attempts import Attempt, Attempts, parse_spend, together


def attempt(key, confidence=0.95, plan=None, number=None, spend=None):
    return Attempt(
        key=key,
        rows="sha256:0",
        goals=("false_refusal <= 0.05",),
        method="auto",
        seed=0,
        confidence=confidence,
        delta=1 - confidence,
        policy="p",
        granted=True,
        time="2026-01-01T00:00:00+00:00",
        spend=spend,
        plan=plan,
        number=number,
    )


@pytest.mark.parametrize(
    ("value", "text", "shares"),
    [(6, "1/6", 1.0), ("6", "1/6", 1.0), (" 1/6 ", "1/6", 1.0), (1, "1/1", 1.0)],
)
def test_a_plan_is_a_number_of_attempts_that_share_delta_evenly(value, text, shares):
    plan = parse_spend(value)
    assert plan.text == text
    assert sum(plan.share(n + 1) for n in range(plan.parts)) == pytest.approx(shares)


def test_releases_never_spend_more_than_all():
    plan = parse_spend("releases")
    assert plan.text == "releases"
    spent = sum(plan.share(r) for r in range(1, 100_000))
    assert 0.99998 < spent < 1
    assert plan.share(1) == pytest.approx(0.6079, abs=1e-4)


@pytest.mark.parametrize("value", [0, -1, "0", "2/6", "1/0", "1/1001", 0.5, "six", "", True])
def test_a_plan_out_of_range_is_refused_in_words(value):
    with pytest.raises(ConfigError, match="cannot spend") as e:
        parse_spend(value)
    assert "from 1 to 1000" in e.value.hint


def test_attempts_add_up_and_the_same_one_counts_once():
    first, second = attempt("a"), attempt("b", confidence=0.9)
    assert together([], first) == Attempts(count=1, confidence=0.95)
    found = together([first, first, second], second)
    assert found == Attempts(count=2, confidence=0.85)
    assert found.words == ("2 attempts on these rows: 85% confidence that all they grant holds")
    assert together([], first).words == ""


def test_nothing_is_left_after_twenty_attempts_at_95_percent():
    found = together([attempt(str(n)) for n in range(25)], attempt("25"))
    assert found.confidence == 0.0
    assert "no confidence that all" in found.words


def test_a_plan_counts_in_whole_from_its_first_attempt_on():
    planned = [attempt(str(n), plan="0", number=n + 1, spend="1/6") for n in range(3)]
    found = together(planned[:2], planned[2])
    assert (found.count, found.confidence) == (3, 0.95)
    assert found.words.startswith("attempt 3 of 6 planned on these rows: 95% confidence")
    beside = together([*planned[:2], attempt("x")], planned[2])
    assert beside.confidence == 0.9
    assert "attempt 3 of 6 planned on these rows, 4 in all: 90%" in beside.words


def test_releases_are_told_by_their_number():
    third = attempt("c", plan="a", number=3, spend="releases")
    assert together([], third).words.startswith("release 3 on these rows: 95%")
