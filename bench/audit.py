"""How many labels an audit of a rare error takes, beside a simple random sample.

    python bench/audit.py

Pools of calibrated scores: the score of a request is normal, around +d/2 where it is to be refused
and -d/2 elsewhere, and its probability is what the two densities say. The threshold misses the
stated share. "simple random": labels of requests drawn evenly, until those of the kind certify the
level by the exact binomial bound in four of five audits.
"""

from __future__ import annotations

import statistics

import numpy as np

from demur.core.goals.parse import parse_goal
from demur.core.goals.promised import promised
from demur.stats.drift.pool_audit import DrawPlan, Pool, plan_draws, settle
from demur.stats.thresholds.plan import rows_likely

SIZE, ALPHA, AUDITS, STEP = 100_000, 0.05, 10, 50
CASES = (  # share to be refused, separation, missed, level
    (0.5, 4.0, 0.004, 0.02),
    (0.5, 4.0, 0.001, 0.005),
    (0.3, 5.0, 0.001, 0.005),
    (0.3, 4.0, 0.002, 0.005),
    (0.1, 5.0, 0.001, 0.005),
)


def pool_of(
    unsafe: float, apart: float, missed: float, level: float, rng: np.random.Generator
) -> tuple[Pool, np.ndarray, np.ndarray]:
    """A pool, its labels, and the probabilities that its scores give these."""
    label_N = (rng.random(SIZE) < unsafe).astype(np.int64)
    z_N = rng.normal(np.where(label_N == 1, apart / 2, -apart / 2), 1.0)
    q_N = 1.0 / (1.0 + np.exp(-apart * z_N) * (1 - unsafe) / unsafe)
    pool = Pool(
        goal=promised(parse_goal(f"missed_refusal[safety] <= {level}")),
        names=("safety",),
        refused_N=z_N >= np.quantile(z_N[label_N == 1], missed),
        heaviest_N=np.ones(SIZE, dtype=np.int64),
    )
    return pool, label_N, np.stack([1 - q_N, q_N], axis=1)


def labels_taken(
    pool: Pool, plan: DrawPlan, label_N: np.ndarray, rng: np.random.Generator
) -> tuple[int, int]:
    """(draws, different requests) until the audit is settled."""
    drawn = rng.choice(SIZE, size=40_000, p=plan.probability_N)
    low, high = 0, len(drawn)  # a verdict stays: search for the first prefix that has one
    while high - low > STEP:
        middle = (low + high) // 2
        some = drawn[:middle]
        found = settle(pool, plan, some.tolist(), label_N[some].tolist(), ALPHA)
        low, high = (middle, high) if found.verdict == "undecided" else (low, middle)
    return high, len(np.unique(drawn[:high]))


def main() -> None:
    """Print a row a case."""
    rng = np.random.default_rng(7)
    print("to be refused, false refusals, missed, level: planned, draws, labels | simple random")
    for unsafe, apart, missed, level in CASES:
        pool, label_N, q_NC = pool_of(unsafe, apart, missed, level, rng)
        plan = plan_draws(pool, q_NC, ALPHA)
        took = [labels_taken(pool, plan, label_N, rng) for _ in range(AUDITS)]
        needed = rows_likely(missed, level, ALPHA)
        false = float(pool.refused_N[label_N == 0].mean())
        draws, labels = (int(statistics.median(t[k] for t in took)) for k in (0, 1))
        print(
            f"{unsafe:>5} {false:.3f} {missed} {level}: {plan.labels:>6} {draws:>6} {labels:>6} | "
            f"{int((needed or 0) / unsafe)}"
        )


if __name__ == "__main__":
    main()
