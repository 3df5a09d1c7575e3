import numpy as np
import pytest
from scipy.stats import binom

from demur.core.example import Example, Message
from demur.stats.sample import asked_requests, divide_rows, whole

SHARE = 0.6


def row(n, count=1, group=None):
    return Example(
        id=f"r{n}",
        source="s",
        messages=(Message(role="user", content=f"prompt {n}"),),
        kind="benign",
        count=count,
        group=group,
    )


@pytest.mark.parametrize("count", [1, 2, 5, 40])
def test_each_request_tests_with_the_same_probability_whatever_its_unit_does(count):
    rng, draws = np.random.default_rng(count), 200_000
    taught_N = rng.random(draws) >= SHARE
    asked_N = asked_requests(np.full(draws, count), taught_N, SHARE, rng.random(draws))
    seen_K = np.bincount(asked_N, minlength=count + 1) / draws
    expected_K = binom.pmf(np.arange(count + 1), count, SHARE)
    assert seen_K == pytest.approx(expected_K, abs=4.5 * np.sqrt(0.25 / draws))
    assert (asked_N[~taught_N] >= 1).all()


def test_rows_of_one_request_go_where_their_units_go():
    rows = [row(n, group=f"g{n // 2}") for n in range(200)]
    divided = divide_rows(rows, 0.4, 1)
    assert sorted([*divided.own, *divided.left], key=lambda e: int(e.id[1:])) == rows
    assert not divided.taught
    assert not {e.group for e in divided.own} & {e.group for e in divided.left}


def test_requests_of_a_popular_prompt_are_in_both_parts():
    rows = [row(n, count=50 if n < 20 else 1) for n in range(400)]
    divided = divide_rows(rows, 0.4, 1)
    parts = [{e.id: e.count for e in part} for part in (divided.own, divided.left)]
    for e in rows[:20]:
        assert 15 <= parts[1][e.id] <= 45
        # a unit teaches by the requests that do not test, or not at all
        assert parts[0].get(e.id) == (50 - parts[1][e.id] if e.id in divided.taught else None)
    # those of which the unit teaches are marked, and no row of one request is
    assert 2 <= len(divided.taught) <= 15
    assert divided.taught <= {e.id for e in rows[:20]}
    assert divide_rows([*rows, row(999)], 0.4, 1).left[: len(divided.left)] == divided.left


def test_without_a_calibrator_all_rows_are_left():
    rows = [row(n, count=n + 1) for n in range(5)]
    assert whole(rows).left == rows
    assert not whole(rows).taught
