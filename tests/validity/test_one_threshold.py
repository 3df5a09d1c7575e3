"""One shared threshold: over many draws few promises are broken, and they are not kept by refusing nobody."""

import pytest
from scipy.stats import binom

from tests.validity.population import DELTA, ONE_THRESHOLD, tally

DRAWS = 2000


@pytest.mark.parametrize("name", ONE_THRESHOLD)
def test_promises_are_broken_in_at_most_delta_of_the_draws(name):
    case = ONE_THRESHOLD[name]
    seen = tally(case, DRAWS)
    assert seen.broken <= binom.ppf(0.999, DRAWS, DELTA)  # delta plus the slack of counting
    assert seen.granted >= case.least_granted * DRAWS
    assert seen.caught > 0.2
