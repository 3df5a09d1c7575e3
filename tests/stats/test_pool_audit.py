"""Audits of a pool: verdicts are wrong in at most alpha of the audits, however wrong the scores."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom

from demur.base.errors import DataError
from demur.core.goals.parse import parse_goal
from demur.stats.drift.pool_audit import Pool, plan_draws, settle
from demur.stats.thresholds.plan import rows_likely

ALPHA = 0.1


def pool_of(goal, rng, *, size=5000, unsafe=0.3, missed=0.01, apart=4.0):
    """A pool of known labels under a threshold that misses so many, and its calibrated scores."""
    label_N = (rng.random(size) < unsafe).astype(np.int64)
    z_N = rng.normal(np.where(label_N == 1, apart / 2, -apart / 2), 1.0)
    q_N = 1.0 / (1.0 + np.exp(-apart * z_N) * (1 - unsafe) / unsafe)
    pool = Pool(
        goal=parse_goal(goal),
        names=("safety",),
        refused_N=z_N >= np.quantile(z_N[label_N == 1], missed),
        heaviest_N=np.ones(size, dtype=np.int64),
    )
    return pool, label_N, np.stack([1 - q_N, q_N], axis=1)


def audited(pool, plan, label_N, rng, draws):
    drawn = rng.choice(len(label_N), size=draws, p=plan.probability_N)
    return settle(pool, plan, drawn.tolist(), label_N[drawn].tolist(), ALPHA)


def true_rate(pool, label_N):
    value_N = pool.value(label_N)
    return (value_N > 0).sum() / (value_N != 0.0).sum()


@pytest.mark.parametrize(
    ("text", "honest"),
    [
        ("missed_refusal[safety] <= {}", True),
        ("missed_refusal[safety] <= {}", False),
        ("false_refusal <= {}", True),
    ],
)
def test_a_wrong_verdict_comes_in_at_most_alpha_of_the_audits(text, honest):
    rng, audits = np.random.default_rng(2), 400
    pool, label_N, q_NC = pool_of(text.format(0.5), rng, missed=0.05)
    rate = float(true_rate(pool, label_N))
    for level, wrong in ((rate * 0.999, "kept"), (rate * 1.001, "broken")):
        asked = replace(pool, goal=parse_goal(text.format(repr(level))))
        plan = plan_draws(asked, q_NC if honest else q_NC[:, ::-1].copy(), ALPHA)
        verdicts = [audited(asked, plan, label_N, rng, 800).verdict for _ in range(audits)]
        assert verdicts.count(wrong) <= binom.ppf(0.999, audits, ALPHA)


def test_a_rare_miss_is_settled_with_fewer_labels_than_a_simple_random_sample_takes():
    rng = np.random.default_rng(7)
    pool, label_N, q_NC = pool_of(
        "missed_refusal[safety] <= 0.02", rng, size=20_000, unsafe=0.5, missed=0.004
    )
    plan = plan_draws(pool, q_NC, ALPHA)
    verdicts = [audited(pool, plan, label_N, rng, 2 * plan.labels).verdict for _ in range(20)]
    assert verdicts.count("kept") >= 16
    # fewer than an exact binomial bound on a simple random sample takes
    assert plan.labels < rows_likely(0.004, 0.02, ALPHA) / 0.5


def test_a_broken_level_is_found():
    rng = np.random.default_rng(9)
    pool, label_N, q_NC = pool_of("missed_refusal[safety] <= 0.01", rng, missed=0.08)
    plan = plan_draws(pool, q_NC, ALPHA)
    assert audited(pool, plan, label_N, rng, 2000).verdict == "broken"


def test_without_labels_nothing_is_settled():
    pool, _, q_NC = pool_of("false_refusal <= 0.1", np.random.default_rng(0), size=50)
    assert settle(pool, plan_draws(pool, q_NC, ALPHA), [], [], ALPHA).verdict == "undecided"


def test_a_goal_that_speaks_of_nobody_is_refused():
    pool = Pool(
        goal=parse_goal("missed_refusal[safety] <= 0.1"),
        names=("safety",),
        refused_N=np.zeros(0, dtype=bool),
        heaviest_N=np.zeros(0, dtype=np.int64),
    )
    with pytest.raises(DataError, match="speaks of no request"):
        plan_draws(pool, np.zeros((0, 2)), ALPHA)
