"""Agreement of a judge with people. Shapes: N answers, G prompts, D draws.

Figures are over the answers that the judge scored; what it could not score is a rate of its own. A
judge's figures hold for the model and the prompts they were measured on: no judge carries its error
rates to another set.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from demur.base.arrays import Doubles, numbered
from demur.base.errors import DataError
from demur.core.judging.outcome import Verdict, View, declines
from demur.core.rates import Rate
from demur.stats.measure import Statistic
from demur.stats.paired import mcnemar_of_groups
from demur.stats.points import Resampling
from demur.stats.units import RowUnits

VERDICTS: tuple[Verdict, ...] = ("refusal", "partial", "compliance", "unscored")


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """One judge's agreement with people, in one two-way view."""

    view: View
    scored: Rate  # answers that the judge scored, among all
    accuracy: Rate
    sensitivity: Rate  # the judge says it declines, among answers that people say decline
    specificity: Rate  # the judge says it does not, among answers that people say do not
    human_rate: Rate  # answers that decline, by people
    judge_rate: Rate  # the same by the judge
    kappa: Statistic  # Cohen's; undefined where both always say the same one thing
    # 95 % percentile bootstrap over prompts; None where kappa is undefined
    kappa_interval: tuple[float, float] | None
    # [by people][by the judge], with what was not scored
    confusion: dict[Verdict, dict[Verdict, int]]


def agreement(
    human: Sequence[Verdict],
    judge: Sequence[Verdict],
    groups: Sequence[str],
    view: View,
    how: Resampling,
) -> Agreement:
    """Measure one judge against people. groups: the prompt of each answer; answers to one prompt
    are drawn together, and are one unit of every rate.

    Raises DataError on unequal lengths, no rows, or a human label "unscored": leave such rows out
    and count them.
    """
    if not len(human) == len(judge) == len(groups) or not human or "unscored" in human:
        raise DataError(
            f"{len(human)} human labels, {len(judge)} verdicts, {len(groups)} prompts, "
            f"{human.count('unscored')} of the labels unscored",
            "one of each a row, at least one row, and a person's label on each",
        )
    scored = [n for n, verdict in enumerate(judge) if verdict != "unscored"]
    truth_N = np.array([declines(human[n], view) for n in scored], dtype=bool)
    said_N = np.array([declines(judge[n], view) for n in scored], dtype=bool)
    # Per prompt: both decline, people only, judge only, neither; shape (G, 4).
    _, group_N = np.unique([groups[n] for n in scored], return_inverse=True)
    size = int(group_N.max()) + 1 if scored else 0
    cells = (truth_N & said_N, truth_N & ~said_N, ~truth_N & said_N, ~truth_N & ~said_N)
    per_cell = [np.bincount(group_N, weights=c, minlength=size) for c in cells]
    count_G4 = np.stack(per_cell, axis=1).astype(np.float64)
    both, only_human, only_judge, neither = (int(c) for c in count_G4.sum(axis=0))
    kappa = kappa_of(both, only_human, only_judge, neither)
    pairs = Counter(zip(human, judge, strict=True))
    of_all = RowUnits.of(len(human), numbered(groups))
    scored_N = np.array([verdict != "unscored" for verdict in judge], dtype=bool)
    rate, everything_N = of_all.at(scored_N).rate, np.ones(len(scored), dtype=bool)
    return Agreement(
        view=view,
        scored=of_all.rate(scored_N, np.ones(len(human), dtype=bool)),
        accuracy=rate(truth_N == said_N, everything_N),
        sensitivity=rate(said_N, truth_N),
        specificity=rate(~said_N, ~truth_N),
        human_rate=rate(truth_N, everything_N),
        judge_rate=rate(said_N, everything_N),
        kappa=kappa,
        kappa_interval=_interval(count_G4, how) if kappa.defined else None,
        confusion={h: {j: pairs[h, j] for j in VERDICTS} for h in VERDICTS[:3]},
    )


def kappa_of(both: int, only_first: int, only_second: int, neither: int) -> Statistic:
    """Cohen's kappa of two raters with two answers (Cohen 1960), from the four counts. Undefined at
    0 / 0.
    """
    n = both + only_first + only_second + neither
    first, second = both + only_first, both + only_second
    # times n^2: integers decide what is undefined
    by_chance = first * second + (n - first) * (n - second)
    if n * n == by_chance:
        return Statistic(number=None, why="both always say the same" if n else "no row")
    return Statistic(number=(n * (both + neither) - by_chance) / (n * n - by_chance))


def mcnemar(
    human: Sequence[bool], first: Sequence[bool], second: Sequence[bool], groups: Sequence[str]
) -> tuple[int, int, float]:
    """(right only by the first judge, right only by the second, exact two-sided p-value); p is 1
    without a difference. groups: the prompt of each answer.

    McNemar (1947) with the binomial distribution instead of the approximation, on the judge that is
    right more often about each prompt.
    """
    rows = list(zip(human, first, second, strict=True))
    ours, theirs = sum(h == a != b for h, a, b in rows), sum(h == b != a for h, a, b in rows)
    # 1 where the first judge alone is right, -1 where the second is
    change_N = np.array([(h == a) - (h == b) for h, a, b in rows], dtype=np.int64)
    return ours, theirs, mcnemar_of_groups(change_N, numbered(groups))


def _interval(count_G4: Doubles, how: Resampling) -> tuple[float, float]:
    """Percentile bootstrap of Cohen's kappa over prompts; draws without a kappa are left out.

    The lower end counts two prompts more than there are, one of each error: that a judge was never
    seen to err on 60 prompts does not say that it never does.
    """
    size = count_G4.sum() / len(count_G4)
    unseen_G4 = np.array([[0.0, size, 0.0, 0.0], [0.0, 0.0, size, 0.0]])
    low, _ = _percentiles(np.concatenate([count_G4, unseen_G4]), how)
    return low, max(_percentiles(count_G4, how)[1], low)


def _percentiles(count_G4: Doubles, how: Resampling) -> tuple[float, float]:
    # drawing G prompts with replacement = multinomial counts: one matrix product for all D draws
    rng, size = np.random.default_rng(how.seed), len(count_G4)
    times_DG = rng.multinomial(size, np.full(size, 1 / size), size=how.draws)
    both_D, human_D, judge_D, neither_D = (times_DG @ count_G4).T
    # as in kappa_of, times n^2
    n_D = both_D + human_D + judge_D + neither_D
    first_D, second_D = both_D + human_D, both_D + judge_D
    chance_D = first_D * second_D + (n_D - first_D) * (n_D - second_D)
    defined_D = n_D * n_D != chance_D
    kappa_D = (n_D * (both_D + neither_D) - chance_D)[defined_D] / (n_D * n_D - chance_D)[defined_D]
    tail = (1.0 - how.confidence) / 2.0
    low, high = np.quantile(kappa_D, [tail, 1.0 - tail])
    return float(low), float(high)
