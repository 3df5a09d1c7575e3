"""1,000,000 thresholds over 10,000 scored prompts: one sorted sweep beside deciding again for every
threshold.

Usage: python bench/sweep.py [--prompts 10000] [--thresholds 1000000]

Both count, for every threshold shared by the categories, how many prompts are refused and how many
of these falsely. The baseline decides all prompts again per threshold, with no model call in
between; it is timed on a few thresholds and extrapolated. Median of 5 runs each, one process.
"""

from __future__ import annotations

import argparse

import numpy as np

from demur.core.decision import decide_many
from demur.core.policy import CategoryPolicy, Policy
from demur.core.score import ScoreTable
from demur.core.taxonomy import coconot
from demur.stats.labelled import LabelledScores
from demur.stats.thresholds.curve import pooled_sweep
from timing import median_seconds

RUNS = 5
BASELINE_THRESHOLDS = 200


def simulated(prompts: int) -> LabelledScores:
    """Scores of a model that is right more often than not."""
    rng = np.random.default_rng(0)
    label_N = rng.integers(0, 6, size=prompts) * (rng.random(prompts) < 0.5)
    logits_NC = rng.normal(size=(prompts, 6)) * 2
    logits_NC[np.arange(prompts), label_N] += 3
    logp_NC = logits_NC - np.logaddexp.reduce(logits_NC, axis=1)[:, None]
    table = ScoreTable(
        ids=tuple(map(str, range(prompts))), logp_NC=np.minimum(logp_NC, 0).astype(np.float32)
    )
    return LabelledScores(table=table, label_N=label_N)


def sweep(policy: Policy, rows: LabelledScores, threshold_T: np.ndarray) -> np.ndarray:
    """(refused, falsely refused) per threshold, sorting included."""
    counts = pooled_sweep(policy, rows).at_thresholds(threshold_T)
    return np.stack([counts.refused, counts.false], axis=1)


def decide_again(policy: Policy, rows: LabelledScores, threshold_T: np.ndarray) -> np.ndarray:
    """The same by deciding every prompt for every threshold."""
    counts = []
    for threshold in threshold_T.tolist():
        moved = policy.with_thresholds(dict.fromkeys(policy.taxonomy.names, threshold))
        refuses_N = decide_many(moved, rows.table.logp_NC).refuses_N
        counts.append((refuses_N.sum(), refuses_N[rows.label_N == 0].sum()))
    return np.array(counts)


def main() -> None:
    """Time both, check that they agree, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=10_000)
    parser.add_argument("--thresholds", type=int, default=1_000_000)
    args = parser.parse_args()
    rows = simulated(args.prompts)
    policy = Policy(
        name="bench", taxonomy=coconot(), rule="heaviest", categories=(CategoryPolicy(),) * 5
    )
    threshold_T = np.random.default_rng(1).random(args.thresholds)
    few_T = threshold_T[:BASELINE_THRESHOLDS]
    if not (sweep(policy, rows, few_T) == decide_again(policy, rows, few_T)).all():
        raise SystemExit("the sweep and deciding again disagree")
    ours = median_seconds(lambda: sweep(policy, rows, threshold_T), RUNS)
    timed = median_seconds(lambda: decide_again(policy, rows, few_T), RUNS)
    baseline = timed * args.thresholds / len(few_T)
    print(
        f"{args.thresholds:,} thresholds over {args.prompts:,} scored prompts, median of {RUNS} "
        "runs"
    )
    print(f"  sweep, sorting included   {ours:10.3f} s")
    print(
        f"  deciding again            {baseline:10.0f} s  (extrapolated from {len(few_T)} "
        f"thresholds, {timed:.2f} s)"
    )
    print(
        f"  ratio                     {baseline / ours:10,.0f} x  (counts equal on {len(few_T)} "
        "compared thresholds)"
    )


if __name__ == "__main__":
    main()
