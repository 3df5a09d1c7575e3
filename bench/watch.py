"""How soon does watch notice that a promise broke, and how often is it wrong in a quiet life?

Usage: python bench/watch.py [--lives 100] [--quiet 100000] [--looks 50000]

Prints a row per case: requests or labels until the alarm after the change (median, and nine in
ten), one of eight tests at 5% together; then the share of quiet lives with a false alarm at 5%.
False refusals go from .05 to .126: a shift of half a deviation of the requests to be answered.
"""

from __future__ import annotations

import argparse

import numpy as np
from scipy.stats import norm

from demur.base.arrays import Doubles
from demur.stats.drift import audit, martingale
from demur.stats.drift.wealth import play

ALPHA, TESTS, AFTER = 0.05, 8, 8000
LEVEL = 0.05


def drift_evidence(score_T: Doubles, quiet: int, rng: np.random.Generator) -> Doubles:
    """Log evidence after each score; ranks are among the quiet past."""
    past = np.sort(score_T[:quiet])
    above_T = quiet - np.searchsorted(past, score_T, side="right")
    p_T = (above_T + rng.random(len(score_T))) / (quiet + 1)
    return play(martingale.START, martingale.log_factors(np.minimum(p_T, 1.0)))[1]


def audit_evidence(rate_T: Doubles, rng: np.random.Generator) -> Doubles:
    """Log evidence after each label, errors at these rates."""
    error_T = (rng.random(len(rate_T)) < rate_T).astype(np.float64)
    return play(audit.START, audit.log_factors(error_T, LEVEL))[1]


def drifting(quiet: int, rng: np.random.Generator) -> Doubles:
    """The evidence of a life whose scores shift after so many quiet ones."""
    rows = quiet + AFTER
    answerable_T = rng.random(rows) < 0.8
    score_T = np.where(answerable_T, rng.normal(-2, 1, rows), rng.normal(2, 1, rows))
    score_T[quiet:][answerable_T[quiet:]] += norm.isf(0.05) - norm.isf(0.126)
    return drift_evidence(score_T, quiet, rng)


def breaking(good: float, quiet: int, bad: float, rng: np.random.Generator) -> Doubles:
    """The evidence of an audit whose error rate changes after so many labels."""
    return audit_evidence(np.repeat([good, bad], [quiet, AFTER]), rng)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lives", type=int, default=100)
    parser.add_argument("--quiet", type=int, default=100_000)
    parser.add_argument("--looks", type=int, default=50_000)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    cases = {
        f"drift after {args.quiet} quiet requests": lambda: drifting(args.quiet, rng),
        "drift after 1000 quiet requests": lambda: drifting(1000, rng),
        "audit .05 -> .126 at once": lambda: breaking(0.05, 0, 0.126, rng),
        "audit .03 -> .126 after 5000 labels": lambda: breaking(0.03, 5000, 0.126, rng),
        "audit .05 -> .126 after 5000 labels": lambda: breaking(0.05, 5000, 0.126, rng),
        "audit .03 -> .08 after 5000 labels": lambda: breaking(0.03, 5000, 0.08, rng),
    }
    for name, life in cases.items():
        # the change is AFTER steps before the end; an alarm that never comes counts as AFTER
        alarm_LT = np.stack([life()[-AFTER:] >= np.log(TESTS / ALPHA) for _ in range(args.lives)])
        found_L = np.where(alarm_LT.any(axis=1), alarm_LT.argmax(axis=1) + 1, AFTER)
        print(
            f"{name}: median {np.median(found_L):.0f}, nine in ten {np.quantile(found_L, 0.9):.0f}"
        )
    quiet = {
        "drift": lambda: play(martingale.START, martingale.log_factors(rng.random(args.looks)))[1],
        "audit": lambda: audit_evidence(np.full(args.looks, LEVEL), rng),
    }
    for name, life in quiet.items():
        wrong = np.mean([life().max() >= np.log(1 / ALPHA) for _ in range(10 * args.lives)])
        print(f"{name}: a false alarm in {wrong:.4f} of quiet lives of {args.looks} looks")


if __name__ == "__main__":
    main()
