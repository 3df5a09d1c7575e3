"""False and missed refusals promised together, and soft goals given up: few promises are broken."""

import pytest
from scipy.stats import binom

from tests.validity.population import BOTH_SIDES, DELTA, tally

DRAWS = 2000


@pytest.mark.parametrize("name", BOTH_SIDES)
def test_promises_are_broken_in_at_most_delta_of_the_draws(name):
    case = BOTH_SIDES[name]
    seen = tally(case, DRAWS)
    assert seen.broken <= binom.ppf(0.999, DRAWS, DELTA)  # delta plus the slack of counting
    assert seen.granted >= case.least_granted * DRAWS
    assert seen.caught > 0.2
