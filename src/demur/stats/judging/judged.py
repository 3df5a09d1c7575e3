"""Labels by a judge, a few of them checked by hand: corrected rates, and promises that hold for the
hand's labels.

The rows checked by hand must be drawn at random from the judged ones. A judge's error rates hold
for the population they were measured on, no other: correct with labels of the system under test
(specs: judges).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from demur.base.arrays import Bools, Doubles, Ints
from demur.base.errors import DataError, GoalError, Undefined
from demur.core.goals.goal import Goal
from demur.core.goals.promised import PROMISED, promised
from demur.core.policy import Policy
from demur.core.rates import Rate
from demur.stats.judging.betting import upper_mean
from demur.stats.labelled import UNCHECKED, LabelledScores
from demur.stats.thresholds.losses import Board, Loss, board_of, losses_of, one_per_group
from demur.stats.thresholds.procedures.request import Request
from demur.stats.thresholds.results import Certified, Evidence, Failure, Uncertified
from demur.stats.thresholds.search import Split, candidates, menu_of, split_rows

_CANDIDATES = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class RateEstimate:
    """A rate corrected for a judge's errors, with its interval."""

    value: float
    low: float
    high: float
    method: str


def rogan_gladen(
    judged: Rate, sensitivity: Rate, specificity: Rate, confidence: float = 0.95
) -> RateEstimate:
    """The true rate behind a judged one, from the judge's hits on known positives and known
    negatives.

    Rogan and Gladen (1978), clipped to [0, 1]; interval of Lang and Reiczigel (2014). Raises
    Undefined for a judge that is no better than a coin.
    """
    q, se, sp = judged.value, sensitivity.value, specificity.value
    if se + sp <= 1.0:
        raise Undefined(
            f"sensitivity {se:g} and specificity {sp:g} say nothing", "use hand labels alone"
        )
    z = float(norm.ppf(0.5 + confidence / 2))
    n_se, n_sp, n_q = sensitivity.of + 2, specificity.of + 2, judged.of + z * z
    se_, sp_ = (sensitivity.hits + 1) / n_se, (specificity.hits + 1) / n_sp
    q_ = (judged.hits + z * z / 2) / n_q
    rate, scale = (q_ + sp_ - 1) / (se_ + sp_ - 1), (se_ + sp_ - 1) ** 2
    v_se, v_sp = se_ * (1 - se_) / n_se, sp_ * (1 - sp_) / n_sp
    middle = rate + 2 * z * z * (rate * v_se - (1 - rate) * v_sp)
    half = z * math.sqrt((q_ * (1 - q_) / n_q + rate**2 * v_se + (1 - rate) ** 2 * v_sp) / scale)
    return RateEstimate(
        value=_clip((q + sp - 1) / (se + sp - 1)),
        low=_clip(middle - half),
        high=_clip(middle + half),
        method="Rogan-Gladen, Lang-Reiczigel interval",
    )


def prediction_powered(
    hand_M: Doubles, judge_M: Doubles, judge_N: Doubles, confidence: float = 0.95
) -> tuple[RateEstimate, float]:
    """The mean of the hand's values from M checked rows and N others that only the judge saw; and
    the weight of these.

    lambda mean(judge_N) + mean(hand_M - lambda judge_M): unbiased whatever the judge does, with the
    lambda of least variance (PPI++: Angelopoulos, Duchi and Zrnic 2023, arXiv 2311.01453). Normal
    interval: for rates near 0 or 1 take the exact one of the hand labels. Raises Undefined on fewer
    than 2 rows of either sort.
    """
    m, n = len(hand_M), len(judge_N)
    if m < 2 or n < 2 or len(judge_M) != m:
        raise Undefined(
            f"{m} checked rows, {len(judge_M)} judged ones of them, {n} others",
            "2 of each at least",
        )
    spread = float(np.var(np.concatenate([judge_M, judge_N]), ddof=1))
    together = float(np.cov(hand_M, judge_M)[0, 1])
    weight = together / ((1 + m / n) * spread) if spread > 0 else 0.0
    value = weight * judge_N.mean() + (hand_M - weight * judge_M).mean()
    se = math.sqrt(
        weight**2 * np.var(judge_N, ddof=1) / n + np.var(hand_M - weight * judge_M, ddof=1) / m
    )
    half = float(norm.ppf(0.5 + confidence / 2)) * se
    return RateEstimate(
        value=float(value), low=float(value - half), high=float(value + half), method="PPI++"
    ), weight


def corrected_rate(
    goal: Goal, policy: Policy, rows: LabelledScores, hand_N: Ints, confidence: float = 0.95
) -> RateEstimate:
    """A policy's false- or missed-refusal rate by the hand's labels, from judged rows of which some
    were checked.

    rows: with the judge's labels. hand_N: the hand's, UNCHECKED elsewhere. A ratio of two corrected
    means; interval by linearisation (delta method), clipped to [0, 1].
    """
    board = board_of(policy, rows, shared=False)
    refused_N = board.refused([policy.category(names[0]).threshold for names in board.groups])
    known_N = hand_N >= 0
    return _ratio(_both(goal, board, hand_N), refused_N, (known_N, ~known_N), confidence)


def certify_judged(request: Request) -> Certified | Failure:
    """Thresholds whose rates hold by the hand's labels, although most rows were labelled by the
    judge only.

    The rows of the request carry hand_N. "errors / rows <= level" is E[error - level * row] <= 0 by
    the hand; that is bounded by the judge's mean on all test rows plus the mean difference on the
    checked ones, each with half of delta, by betting bounds (differences lie in [-1, 1]). Vectors
    are learnt on one part of the rows and tested on the other, safest first, as in
    demur.stats.thresholds.procedures.sequences. Evidence counts are the judge's; its p-value
    and bound only repeat what was tested: delta, and the level. Raises DataError without hand
    labels.
    """
    board, hand_N = request.board, request.board.rows.hand_N
    if hand_N is None:
        raise DataError(
            "no row carries a label by hand", "check a random sample of the rows by hand"
        )
    pairs = [_both(loss.goal, board, hand_N) for loss in request.losses]
    split = split_rows(board, request.learn_share, request.seed)
    alone_N = one_per_group(board.rows.group_N, np.ones(len(hand_N), dtype=bool), request.seed)
    split = Split(learn_N=split.learn_N, test_N=split.test_N & alone_N)
    menu = menu_of(board, [judge for judge, _ in pairs], request.aim.worth_N, split, request.fixed)
    best: tuple[float, tuple[float, ...], Bools] | None = None
    worst, bound = request.losses[0].goal, math.inf
    for by_group in candidates(menu, _CANDIDATES):
        refused_N = board.refused(by_group)
        excess = [_upper(pair, refused_N, (split, hand_N >= 0), request.delta) for pair in pairs]
        if max(excess) > 0.0:
            worst, bound = request.losses[int(np.argmax(excess))].goal, max(excess)
            break
        if best is None or request.aim.value(refused_N) > best[0]:
            best = (request.aim.value(refused_N), by_group, refused_N)
    checked_N = split.test_N & (hand_N >= 0)
    if best is None or request.aim.in_vain(best[2]):
        rows = int(checked_N.sum())
        reason = (
            f"{worst.text!r}: the corrected excess over the level may be {bound:.4f}, with "
            f"{rows} rows checked"
        )
        return Uncertified(reason=reason, blocking=worst, rows=rows, rows_needed=None, evidence=())
    evidence = tuple(_evidence(judge, best[2], split, request.delta) for judge, _ in pairs)
    method = _method(pairs, best[2], split.test_N, checked_N)
    return Certified(thresholds=board.thresholds(best[1]), evidence=evidence, method=method)


def _method(
    pairs: Sequence[tuple[Loss, Loss]], refused_N: Bools, test_N: Bools, checked_N: Bools
) -> str:
    """How it was certified, with what the rates are by hand, as far as can be estimated."""
    found = []
    for pair in pairs:
        try:
            c = _ratio(pair, refused_N, (checked_N, test_N & ~checked_N), 0.95)
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


def _ratio(
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
    around = mean([e - rate * a for e, a in zip(error, among, strict=True)])
    half = (around.high - around.value) / whole
    return RateEstimate(
        value=_clip(rate), low=_clip(rate - half), high=_clip(rate + half), method="PPI++ ratio"
    )


def _both(goal: Goal, board: Board, hand_N: Ints) -> tuple[Loss, Loss]:
    """The goal as a loss by the judge's labels and by the hand's; the latter is meaningless on
    unchecked rows.

    Rows made from one another are all in: which of them counts is the caller's to choose, once for
    both.
    """
    if not promised(goal).by_hand:
        known = " and ".join(kind.name for kind in PROMISED if kind.by_hand)
        raise GoalError(f"goal {goal.text!r} has no correction", f"{known} have one")
    if (
        hand_N.shape != board.rows.label_N.shape
        or not (hand_N >= 0).any()
        or (hand_N < UNCHECKED).any()
    ):
        raise DataError(
            f"hand labels of shape {hand_N.shape} for {len(board.rows.label_N)} rows, "
            f"{(hand_N >= 0).sum()} known",
            "one a row: a column of the scores, or -1 where no hand has labelled it",
        )
    filled_N = np.where(hand_N >= 0, hand_N, board.rows.label_N)
    by_hand = LabelledScores(table=board.rows.table, label_N=filled_N, traits=board.rows.traits)
    plain = LabelledScores(
        table=board.rows.table, label_N=board.rows.label_N, traits=board.rows.traits
    )
    shared = len(board.groups) == 1
    judge = losses_of([goal], board_of(board.template, plain, shared=shared), 0)[0]
    return judge, losses_of([goal], board_of(board.template, by_hand, shared=shared), 0)[0]


def _upper(
    pair: tuple[Loss, Loss], refused_N: Bools, parts: tuple[Split, Bools], delta: float
) -> float:
    """Upper bound of the hand's E[error - level * row], with probability 1 - delta."""
    (split, known_N), level = parts, pair[0].level
    judged_N, by_hand_N = (loss.errors(refused_N) - level * loss.among_N for loss in pair)
    difference_M = (by_hand_N - judged_N)[split.test_N & known_N]
    mean = upper_mean(judged_N[split.test_N], -level, 1.0 - level, delta / 2)
    return mean + upper_mean(difference_M, -1.0, 1.0, delta / 2)


def _evidence(loss: Loss, refused_N: Bools, split: Split, delta: float) -> Evidence:
    rate = loss.rate(refused_N, split.test_N)
    mix = loss.mix(refused_N, split.test_N)
    return Evidence(goal=loss.goal, rate=rate, p_value=delta, upper=loss.level, mix=mix)


def _clip(rate: float) -> float:
    return float(min(max(rate, 0.0), 1.0))
