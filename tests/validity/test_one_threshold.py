"""One shared threshold: over many draws few promises are broken, and they are not kept by refusing
nobody.
"""

import pytest

from tests.validity.population import ONE_THRESHOLD, keeps_its_word, tally

DRAWS = 2000


@pytest.mark.parametrize("name", ONE_THRESHOLD)
def test_promises_are_broken_in_at_most_delta_of_the_draws(name):
    keeps_its_word(ONE_THRESHOLD[name], tally(ONE_THRESHOLD[name], DRAWS))
