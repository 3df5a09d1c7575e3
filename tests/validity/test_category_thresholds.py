"""A threshold per category: over many draws few promises are broken."""

import pytest
from scipy.stats import binom

from tests.validity.population import CATEGORIES, DELTA, tally

DRAWS = 2000


@pytest.mark.parametrize("name", CATEGORIES)
def test_promises_are_broken_in_at_most_delta_of_the_draws(name):
    case = CATEGORIES[name]
    seen = tally(case, DRAWS)
    assert seen.broken <= binom.ppf(0.999, DRAWS, DELTA)  # delta plus the slack of counting
    assert seen.granted >= case.least_granted * DRAWS
    assert seen.caught > 0.2
