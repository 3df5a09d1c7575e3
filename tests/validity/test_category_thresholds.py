"""A threshold per category: over many draws few promises are broken."""

import pytest

from tests.validity.population import CATEGORIES, keeps_its_word, tally

DRAWS = 2000


@pytest.mark.parametrize("name", CATEGORIES)
def test_promises_are_broken_in_at_most_delta_of_the_draws(name):
    keeps_its_word(CATEGORIES[name], tally(CATEGORIES[name], DRAWS))
