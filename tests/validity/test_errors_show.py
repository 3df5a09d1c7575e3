"""A simulation that could not fail would prove nothing: delta spent 2.5 times over is caught, by
the very same bound.

In the cases marked sharp nearly all of delta is spent. What they certify at 2.5 delta is held
against delta.
"""

import pytest
from scipy.stats import binom

from tests.validity.population import BOTH_SIDES, CATEGORIES, DELTA, ONE_THRESHOLD, tally

SHARP = {
    f"{table}: {name}": case
    for table, cases in (("one", ONE_THRESHOLD), ("categories", CATEGORIES), ("both", BOTH_SIDES))
    for name, case in cases.items()
    if case.sharp
}
QUICK = {name: case for name, case in SHARP.items() if case.method not in ("path", "vectors")}


def caught(case, draws):
    return tally(case, draws, seed=3, delta=2.5 * DELTA).broken > binom.ppf(0.999, draws, DELTA)


@pytest.mark.parametrize("name", QUICK)
def test_delta_spent_two_and_a_half_times_over_is_caught(name):
    assert caught(QUICK[name], 1000)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(SHARP) - set(QUICK)))
def test_so_it_is_where_an_order_is_learnt(name):
    assert caught(SHARP[name], 4000)


def test_every_procedure_has_a_sharp_case():
    assert {case.method for case in SHARP.values()} == {
        "shared",
        "even",
        "path",
        "vectors",
        "budgets",
        "graphical",
    }
