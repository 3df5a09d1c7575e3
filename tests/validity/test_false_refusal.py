"""false_refusal <= a with confidence 1 - d: over many draws of the calibration rows, few chosen
policies break it.

Each draw has its own calibration rows; the true false-refusal rate of the chosen policy is known,
because the refusal score is a monotone function of one normal variable whose quantiles we can list.
"""

import numpy as np
import pytest
from scipy.stats import binom, norm

from demur.core.decision import compared_scores
from demur.core.goals.parse import parse_goal
from demur.stats.thresholds.certify import CertifyOptions
from demur.stats.thresholds.solve import solve
from tests.builders import labelled, policy

DRAWS = 2000
ROWS = 240  # to be answered; a few to be refused beside them
POPULATION = 200_001


def to_bfloat16(values):
    """Round float32 to the nearest bfloat16, ties to even: an 8-bit significand, hence many equal
    scores.
    """
    bits = np.asarray(values, dtype=np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).view(np.float32)


def scores(z_N, rounding):
    """Scores over respond and two categories. The refusal mass is sigmoid(z), 0.7 of it on one
    category, in turn.

    The categories' probabilities are rounded, as a bfloat16 softmax would; the answer's makes up
    the rest.
    """
    refuse_N = 1 / (1 + np.exp(-z_N))
    first_N = np.where(np.arange(len(z_N)) % 2 == 0, 0.7, 0.3)
    q_NK = rounding(
        np.stack([refuse_N * first_N, refuse_N * (1 - first_N)], axis=1).astype(np.float32)
    )
    respond_N = np.maximum(1 - q_NK.sum(axis=1, keepdims=True), 1e-6)
    return np.log(np.concatenate([respond_N, q_NK], axis=1)).astype(np.float32)


def true_rates(thresholds, template, rounding):
    """The share of all comply prompts that each shared threshold refuses."""
    z_N = norm.ppf((np.arange(POPULATION) + 0.5) / POPULATION, loc=-1.5, scale=1.5)
    compared_N = np.sort(compared_scores(template, scores(z_N, rounding)).astype(np.float64))
    return 1 - np.searchsorted(compared_N, np.log(thresholds), side="left") / POPULATION


@pytest.mark.parametrize(
    ("rule", "rounding"),
    [("heaviest", np.asarray), ("heaviest", to_bfloat16), ("sum", to_bfloat16)],
)
def test_a_certified_false_refusal_rate_is_exceeded_in_at_most_delta_of_the_draws(rule, rounding):
    level, delta = 0.05, 0.1
    goal, template = parse_goal(f"false_refusal <= {level}"), policy(2, rule)
    label_N = np.repeat([0, 1], [ROWS, 10])
    rng = np.random.default_rng(20250101)
    thresholds = []
    for _ in range(DRAWS):
        z_N = np.concatenate([rng.normal(-1.5, 1.5, ROWS), rng.normal(2, 1.5, 10)])
        rows = labelled(scores(z_N, rounding), label_N)
        done = solve(
            [goal],
            template,
            rows,
            CertifyOptions(confidence=1 - delta, method="shared"),
            data_digest="",
        )
        thresholds.append(done.categories[0].threshold)
    rates = true_rates(np.array(thresholds), template, rounding)
    broken = int((rates > level).sum())
    assert broken <= binom.ppf(0.999, DRAWS, delta)  # delta plus the slack of counting 2,000 draws
    assert rates.mean() > level / 2  # not kept by refusing nobody
    if rounding is np.asarray:
        # continuous scores: nearly all of delta is spent
        assert broken >= binom.ppf(0.001, DRAWS, 0.06)
