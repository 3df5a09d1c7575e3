import json
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from demur.base.errors import GoalError
from tests.oracles.graphical import graphical

GOLDEN = json.loads((Path(__file__).parent.parent / "golden" / "promises.json").read_text())[
    "several_tests"
]
P, DELTA = GOLDEN["p_values"], GOLDEN["delta"]
N = len(P)


def chains(starts, n):
    """Each start passes all its weight along to the next one."""
    transfer = np.zeros((n, n))
    for i in range(n - 1):
        if i + 1 not in starts:
            transfer[i, i + 1] = 1.0
    return transfer


def test_its_special_cases_equal_the_golden_procedures():
    equal, nothing = np.full(N, 1 / N), np.zeros((N, N))
    complete = (np.ones((N, N)) - np.eye(N)) / (N - 1)
    first = np.eye(N)[0]
    assert graphical(P, equal, nothing, DELTA) == set(GOLDEN["bonferroni"])
    assert graphical(P, equal, complete, DELTA) == set(GOLDEN["holm"])
    assert graphical(P, first, chains({0}, N), DELTA) == set(GOLDEN["fixed_sequence_index_order"])
    halves = np.zeros(N)
    halves[[0, N // 2]] = 0.5
    assert graphical(P, halves, chains({0, N // 2}, N), DELTA) == set(
        GOLDEN["fixed_sequence_2_starts"]
    )


P_VALUES = st.lists(st.sampled_from([0.001, 0.01, 0.02, 0.03, 0.2]), min_size=4, max_size=4)


@given(p=P_VALUES, seed=st.integers(0, 99))
def test_the_order_of_the_hypotheses_does_not_matter(p, seed):
    rng = np.random.default_rng(seed)
    weight = rng.dirichlet(np.ones(4))
    transfer = rng.random((4, 4))
    np.fill_diagonal(transfer, 0.0)
    transfer /= transfer.sum(axis=1, keepdims=True)
    expected = graphical(p, weight, transfer, 0.05)
    for order in list(permutations(range(4)))[::5]:
        at = list(order)
        found = graphical([p[i] for i in at], weight[at], transfer[np.ix_(at, at)], 0.05)
        assert {at[i] for i in found} == expected


def test_an_unknown_p_value_is_never_rejected():
    assert graphical([float("nan"), 0.001], [0.5, 0.5], np.zeros((2, 2)), 0.05) == {1}


@pytest.mark.parametrize(
    ("weight", "transfer", "message"),
    [
        ([0.7, 0.7], np.zeros((2, 2)), "sum to 1.4"),
        ([-0.1, 0.7], np.zeros((2, 2)), "expected shares"),
        ([0.5, 0.5], np.ones((2, 2)), "rows that sum to at most 1"),
        ([1.0], np.zeros((2, 2)), "one of each"),
    ],
)
def test_weights_that_do_not_fit_are_refused(weight, transfer, message):
    with pytest.raises(GoalError, match=message):
        graphical([0.01, 0.02], weight, transfer, 0.05)
