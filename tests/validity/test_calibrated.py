"""A calibrator on its own rows, a promise on others: it holds of both as they stand. On the same
rows it fails.

A calibrator bends the scores towards the labels that it saw. Rows to be answered that happened to
score high are pulled down with their neighbours, so the same rows then show too few errors at any
threshold.
"""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom

from demur.core.decision import compared_scores, decide_many
from demur.stats.calibrators.families import fit_calibrator
from demur.stats.thresholds.closed_form import certify_false_refusal
from demur.stats.thresholds.results import Certified
from tests.validity.population import DELTA, Tally, population
from tests.validity.slow import longest_apart

DRAWS = 2000
LEVEL = 0.05
# rows per class, of the calibrator and of the threshold
OWN, LEFT = (150, 60, 40, 30), (306, 60, 40, 30)


def calibrated_promises(family, draws, *, apart, seed=1):
    """Fit a calibrator and certify a threshold on draws of their own rows each, or of the same
    rows.
    """
    people, rng = population(signal=3.0, rows=6000), np.random.default_rng(seed)
    answerable_NC = people.logp_NC[people.of_class[0]]
    refusable_NC = people.logp_NC[np.concatenate(people.of_class[1:])]
    broken, caught = 0, 0.0
    for _ in range(draws):
        rows = people.draw(rng, LEFT)
        own = people.draw(rng, OWN) if apart else rows
        calibrator = fit_calibrator(family, own, people.template.taxonomy).calibrator
        template = replace(people.template, calibrator=calibrator)
        q_M = compared_scores(template, rows.table.logp_NC[rows.label_N == 0])
        found = certify_false_refusal(q_M, LEVEL, DELTA)
        assert isinstance(found, Certified)
        policy = template.with_thresholds(
            dict.fromkeys(template.taxonomy.names, found.thresholds[0])
        )
        broken += int(decide_many(policy, answerable_NC).refuses_N.mean() > LEVEL)
        caught += decide_many(policy, refusable_NC).refuses_N.mean()
    return Tally(draws, draws, broken, caught / draws)


@pytest.mark.parametrize("family", longest_apart(["temperature", "isotonic"], ["isotonic"]))
def test_promises_behind_a_calibrator_are_broken_in_at_most_delta_of_the_draws(family):
    broken = calibrated_promises(family, DRAWS, apart=True).broken
    assert broken <= binom.ppf(0.999, DRAWS, DELTA)
    assert broken >= binom.ppf(0.001, DRAWS, 0.06)  # nearly all of delta is spent


def test_a_flexible_calibrator_fitted_on_the_same_rows_breaks_them_twice_as_often():
    assert calibrated_promises("isotonic", 400, apart=False).broken > 2 * DELTA * 400
