"""Trying again on the same rows: what the ledger says remains, remains. 2,000 seeded draws each.

A promise at the lenient edge is broken exactly where the rows show no more errors than their test
allows at a threshold whose true rate is the level: so draws of such errors are all that is needed.
"""

import numpy as np
import pytest
from scipy.stats import binom

from demur.core.goals.attempts import parse_spend, together
from demur.core.rates import most_errors
from tests.core.goals.test_attempts import attempt

DRAWS = 2000
LEVEL = 0.1


def most_broken(delta):
    """Delta plus the slack of counting 2,000 draws."""
    return binom.ppf(0.999, DRAWS, delta)


def broken(error_DN, looks, deltas):
    """Whether any look at the first n rows certifies a rate that is the level itself, per draw."""
    found_D = np.zeros(len(error_DN), dtype=bool)
    count_DN = error_DN.cumsum(axis=1)
    for n, delta in zip(looks, deltas, strict=True):
        most = most_errors(n, LEVEL, delta)
        found_D |= count_DN[:, n - 1] <= (-1 if most is None else most)
    return found_D.sum()


LOOKS = range(100, 1300, 100)


@pytest.fixture(scope="module")
def error_DN():
    return np.random.default_rng(1).random((DRAWS, LOOKS[-1])) < LEVEL


def test_looking_again_with_more_rows_breaks_delta_and_the_ledger_says_what_remains(error_DN):
    # before the ledger, each look had its own confidence and nothing said what it cost
    assert broken(error_DN, LOOKS, [0.1] * 12) > most_broken(0.1)
    remains = together([attempt(str(n), 0.98) for n in range(11)], attempt("11", 0.98)).confidence
    assert remains == 0.76
    assert broken(error_DN, LOOKS, [0.02] * 12) <= most_broken(1 - remains)


@pytest.mark.parametrize("plan", [12, "releases"])
def test_looks_that_were_planned_keep_delta(error_DN, plan):
    shares = [0.1 * parse_spend(plan).share(n) for n in range(1, 13)]
    assert broken(error_DN, LOOKS, shares) <= most_broken(0.1)


def test_six_policies_from_one_split_keep_delta_if_they_were_planned():
    """Each speaks of another category, so that their errors are all but independent."""
    rng = np.random.default_rng(2)
    six = [rng.random((DRAWS, 400)) < LEVEL for _ in range(6)]

    def any_broken(delta):
        most = most_errors(400, LEVEL, delta)
        return np.any([errors.sum(axis=1) <= most for errors in six], axis=0).sum()

    assert any_broken(0.1) > most_broken(0.1)
    assert any_broken(0.1 * parse_spend(6).share(1)) <= most_broken(0.1)
