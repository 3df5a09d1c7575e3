"""False and missed refusals promised together, and soft goals given up: few promises are broken."""

import pytest

from tests.validity.population import BOTH_SIDES, keeps_its_word, tally
from tests.validity.slow import longest_apart

DRAWS = 2000


LONG = ("path", "vectors, bfloat16", "vectors, misled", "hard only", "path, small category")
CASES = longest_apart(BOTH_SIDES, LONG)


@pytest.mark.parametrize("name", CASES)
def test_promises_are_broken_in_at_most_delta_of_the_draws(name):
    keeps_its_word(BOTH_SIDES[name], tally(BOTH_SIDES[name], DRAWS))
