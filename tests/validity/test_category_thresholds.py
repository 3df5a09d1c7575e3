"""A threshold per category: over many draws few promises are broken."""

import pytest

from tests.validity.population import CATEGORIES, keeps_its_word, tally
from tests.validity.slow import longest_apart

DRAWS = 2000
LONG = (
    "path, two levels",
    "one category, the others open",
    "the best of three",
    "missed refusals, as a caller asks",
)


@pytest.mark.parametrize("name", longest_apart(CATEGORIES, LONG))
def test_promises_are_broken_in_at_most_delta_of_the_draws(name):
    keeps_its_word(CATEGORIES[name], tally(CATEGORIES[name], DRAWS))
