"""The corrected rate's 95 % interval covers the truth, whatever the judge does."""

import numpy as np
import pytest

from tests.stats.test_correction import checked, corrected, in_strata, population

DRAWS = 1000


JUDGES = [
    (0.38, 0.98, 0.54),
    (0.25, 0.73, 0.95),
    (0.5, 0.5, 0.5),
    (0.06, 0.8, 0.97),
    (0.12, 0.8, 0.97),
    (0.9, 0.9, 0.2),
    (0.02, 0.5, 0.99),
    (0.3, 0.995, 0.995),
]


@pytest.mark.parametrize(("rate", "sensitivity", "specificity"), JUDGES)
def test_with_100_hand_labels_the_interval_covers_the_truth(rate, sensitivity, specificity):
    rng, covered = np.random.default_rng(0), 0
    judge_N, hand_N = population(1500, rate, sensitivity, specificity)
    for _ in range(DRAWS):
        found = corrected(judge_N, hand_N, checked(len(hand_N), 100, rng))
        covered += found.low <= hand_N.mean() <= found.high
    assert covered >= 0.93 * DRAWS


@pytest.mark.parametrize(("rate", "sensitivity", "specificity"), JUDGES)
def test_so_it_does_with_labels_drawn_more_often_near_a_threshold_and_where_the_judge_saw_a_refusal(
    rate, sensitivity, specificity
):
    rng, covered = np.random.default_rng(0), 0
    judge_N, hand_N = population(1500, rate, sensitivity, specificity)
    of_N = 2 * (rng.random(1500) < 0.25) + (judge_N == 1)
    roots = np.sqrt(np.bincount(of_N))
    per_stratum = np.maximum(2, np.round(100 * roots / roots.sum())).astype(int).tolist()
    for _ in range(DRAWS):
        known_N, strata = in_strata(of_N, per_stratum, rng)
        found = corrected(judge_N, hand_N, known_N, strata)
        covered += found.low <= hand_N.mean() <= found.high
    assert covered >= 0.93 * DRAWS
