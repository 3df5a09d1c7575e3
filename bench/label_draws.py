"""Widths of corrected rates: labels drawn at random from all texts, and as draw-labels draws them.

usage: python bench/label_draws.py. Per setting a rate and a judge's sensitivity and specificity;
1,500 texts, 120 labels.
"""

from __future__ import annotations

import numpy as np

from demur.base.arrays import Ints
from demur.stages.draw_labels import strata_of
from demur.stats.judging.correction import CheckedSample, Strata, regression_rate
from demur.stats.sample import power_allocation

TEXTS, LABELS, DRAWS = 1500, 120, 200
SETTINGS = (
    (0.38, 0.98, 0.54),
    (0.25, 0.73, 0.95),
    (0.5, 0.5, 0.5),
    (0.06, 0.8, 0.97),
    (0.12, 0.8, 0.97),
    (0.9, 0.9, 0.2),
    (0.02, 0.5, 0.99),
    (0.3, 0.995, 0.995),
)


def width(rate: tuple[float, float, float], *, drawn: bool, draws: int = DRAWS) -> float:
    """The mean width of the corrected rate's interval. drawn: as draw-labels draws, not alike."""
    rng = np.random.default_rng(3)
    hand_N = (rng.random(TEXTS) < rate[0]).astype(np.float64)
    right_N = rng.random(TEXTS) < np.where(hand_N == 1, rate[1], rate[2])
    judge_N = np.where(right_N, hand_N, 1 - hand_N)
    names = strata_of([bool(j) for j in judge_N]) if drawn else ["all"] * TEXTS
    of_N = np.unique(names, return_inverse=True)[1].astype(np.int64)
    size_S = np.bincount(of_N)
    count_S = power_allocation(size_S.tolist(), size_S.tolist(), LABELS)
    return float(np.mean([_one(judge_N, hand_N, of_N, count_S, rng) for _ in range(draws)]))


def _one(
    judge_N: np.ndarray,
    hand_N: np.ndarray,
    of_N: Ints,
    count_S: list[int],
    rng: np.random.Generator,
) -> float:
    known_N = np.zeros(len(of_N), dtype=bool)
    for stratum, count in enumerate(count_S):
        known_N[rng.choice(np.flatnonzero(of_N == stratum), count, replace=False)] = True
    checked_S, size_S = np.array(count_S), np.bincount(of_N)
    strata = Strata(of_N=of_N, checked_S=checked_S, size_S=size_S) if len(count_S) > 1 else None
    found = regression_rate(
        CheckedSample(judge_N=judge_N, hand_N=hand_N, known_N=known_N, strata=strata)
    )
    return found.high - found.low


def main() -> None:
    """Print both widths per setting."""
    for rate in SETTINGS:
        alike, drawn = width(rate, drawn=False), width(rate, drawn=True)
        print(f"rate, sensitivity, specificity {rate}: {alike:.3f} alike, {drawn:.3f} as drawn")


if __name__ == "__main__":
    main()
