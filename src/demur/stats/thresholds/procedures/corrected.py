"""A correction of promises by a judge's labels, where people labelled a random few of the rows.

The judge's mean on all rows is moved by its mean difference to the hand's labels. It may show more
than exact tests on the rows labelled by hand, where these are many, levels high and the judge good.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from demur.base.arrays import Bools, Doubles
from demur.base.errors import Undefined
from demur.core.rates import stored
from demur.stats.judging.betting import upper_mean
from demur.stats.judging.judged import RateEstimate, prediction_powered
from demur.stats.thresholds.objective import linear_worth
from demur.stats.thresholds.problem import LearnTestSplit, Loss
from demur.stats.thresholds.procedures.hand_labels import hand_units
from demur.stats.thresholds.procedures.search import candidates, cut_grid, split_rows
from demur.stats.thresholds.procedures.task import CertifyTask
from demur.stats.thresholds.results import Certified, Evidence, Uncertified

_CANDIDATES = 12


def certify_corrected(task: CertifyTask) -> Certified | Uncertified:
    """Thresholds whose rates hold by the hand's labels, although most rows were labelled by the
    judge only.

    The rows of the task carry hand_N. "errors / rows <= level" is E[error - level * row] <= 0 by
    the hand; that is bounded by the judge's mean on all test rows plus the mean difference on the
    checked ones, each with half of delta, by betting bounds (differences lie in [-1, 1]). Vectors
    are learnt on a part of the rows that only the judge labelled and tested on all others, safest
    first, as in demur.stats.thresholds.procedures.sequences; rows labelled by hand are a random
    part, so what is left is one, too. For rows that stand alone. Evidence counts are the judge's;
    its p-value and bound only repeat what was tested: delta, and the level.
    """
    grouped, pairs = task.grouped, task.by_hand
    known_N = grouped.rows.by_hand_N
    learn_N = split_rows(grouped, task.learn_share, task.seed).learn_N & ~hand_units(grouped.rows)
    split = LearnTestSplit(learn_N=learn_N, test_N=~learn_N)
    worth_N = linear_worth(grouped, task.objective, learn_N)
    menu = cut_grid(grouped, [judge for judge, _ in pairs], worth_N, split, task.fixed)
    best: tuple[float, tuple[float, ...], Bools] | None = None
    worst, bound = task.losses[0].goal, math.inf
    for by_group in candidates(menu, _CANDIDATES):
        refused_N = grouped.refused(by_group)
        excess = [
            _upper(
                pair,
                grouped.at_worst(pair[0].when).refused(by_group),
                (split, known_N),
                task.delta,
            )
            for pair in pairs
        ]
        if max(excess) > 0.0:
            worst, bound = task.losses[int(np.argmax(excess))].goal, max(excess)
            break
        if best is None or task.objective.value(refused_N) > best[0]:
            best = (task.objective.value(refused_N), by_group, refused_N)
    checked_N = split.test_N & known_N
    if best is None or task.objective.is_vacuous(best[2]):
        rows = int(checked_N.sum())
        reason = (
            f"{worst.text!r}: the corrected excess over the level may be {bound:.4f}, with "
            f"{rows} rows checked"
        )
        return Uncertified(reason=reason, blocking=worst, rows=rows, rows_needed=None, evidence=())
    evidence = tuple(_evidence(judge, best[2], split, task.delta) for judge, _ in pairs)
    method = _method(pairs, best[2], split.test_N, checked_N)
    return Certified(
        thresholds=grouped.thresholds(best[1]), evidence=evidence, method=grouped.method(method)
    )


def _method(
    pairs: Sequence[tuple[Loss, Loss]], refused_N: Bools, test_N: Bools, checked_N: Bools
) -> str:
    """How it was certified, with what the rates are by hand, as far as can be estimated."""
    found = []
    for pair in pairs:
        try:
            c = hand_rate(pair, refused_N, (checked_N, test_N & ~checked_N), 0.95)
            found.append(
                f"{pair[0].goal.risk} about {c.value:.1%} ({c.low:.1%} to {c.high:.1%}) by hand"
            )
        except Undefined:
            found.append(f"{pair[0].goal.risk} by hand cannot be estimated")
    bounds = (
        f"betting bounds of the judge's mean and of the difference on {checked_N.sum()} rows "
        "checked by hand"
    )
    return f"corrected for the judge: {'; '.join(found)}; {bounds} (arXiv 2010.09686)"


def hand_rate(
    pair: tuple[Loss, Loss], refused_N: Bools, parts: tuple[Bools, Bools], confidence: float
) -> RateEstimate:
    """errors / rows by the hand. pair: by the judge's labels, by the hand's. parts: rows checked,
    rows only judged.
    """
    checked_N, judged_N = parts
    error = [loss.errors(refused_N).astype(np.float64) for loss in pair]
    among = [loss.among_N.astype(np.float64) for loss in pair]

    def mean(values: Sequence[Doubles]) -> RateEstimate:
        return prediction_powered(
            values[1][checked_N], values[0][checked_N], values[0][judged_N], confidence
        )[0]

    whole = mean(among).value
    if whole <= 0:
        raise Undefined(
            f"goal {pair[0].goal.text!r}: no row of its kind by the hand's labels",
            "check more rows",
        )
    rate = mean(error).value / whole
    # Linearised (delta method): the ratio varies as the mean of error - rate * row does.
    around = mean([e - rate * a for e, a in zip(error, among, strict=True)])
    half = (around.high - around.value) / whole
    value, low, high = (min(max(r, 0.0), 1.0) for r in (rate, rate - half, rate + half))
    return RateEstimate(value=value, low=low, high=high, method="PPI++ ratio")


def _upper(
    pair: tuple[Loss, Loss], refused_N: Bools, parts: tuple[LearnTestSplit, Bools], delta: float
) -> float:
    """Upper bound of the hand's E[error - level * row], with probability 1 - delta."""
    (split, known_N), level = parts, pair[0].level
    judged_N, by_hand_N = (loss.errors(refused_N) - level * loss.among_N for loss in pair)
    # The judge's error on checked test rows. These are a random draw, so it holds for all.
    difference_M = (by_hand_N - judged_N)[split.test_N & known_N]
    mean = upper_mean(judged_N[split.test_N], -level, 1.0 - level, delta / 2)
    return mean + upper_mean(difference_M, -1.0, 1.0, delta / 2)


def _evidence(loss: Loss, refused_N: Bools, split: LearnTestSplit, delta: float) -> Evidence:
    rate, by_units = stored(loss.measured(refused_N, split.test_N))
    mix = loss.mix(refused_N, split.test_N)
    return Evidence(
        goal=loss.goal, rate=rate, p_value=delta, upper=loss.level, by_units=by_units, mix=mix
    )
