"""The corrected rate's 95 % interval covers the truth, whatever the judge does."""

import numpy as np
import pytest

from demur.stats.correction import regression_rate
from tests.stats.test_correction import checked, population

DRAWS = 1000


@pytest.mark.parametrize(
    ("rate", "sensitivity", "specificity"),
    [
        (0.38, 0.98, 0.54),
        (0.25, 0.73, 0.95),
        (0.5, 0.5, 0.5),
        (0.06, 0.8, 0.97),
        (0.12, 0.8, 0.97),
        (0.9, 0.9, 0.2),
        (0.02, 0.5, 0.99),
    ],
)
def test_with_100_hand_labels_the_interval_covers_the_truth(rate, sensitivity, specificity):
    rng, covered = np.random.default_rng(0), 0
    judge_N, hand_N = population(1500, rate, sensitivity, specificity)
    for _ in range(DRAWS):
        found = regression_rate(judge_N, hand_N, checked(len(hand_N), 100, rng))
        covered += found.low <= hand_N.mean() <= found.high
    assert covered >= 0.93 * DRAWS
