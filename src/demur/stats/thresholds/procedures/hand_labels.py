"""Promises by the hand's labels, where a judge labelled most rows and people a random few of them.

1. An order of thresholds is learnt on the rows that only the judge labelled, and tested exactly on
   those that people labelled, by the procedures beside this file. A judge that errs costs power,
   never validity.
2. A correction bounds the judge's mean on all rows and its mean difference to the hand's labels. It
   may show more where hand labels are many, levels high and the judge is good.

The rows labelled by hand must be drawn at random from the judged ones, and all rows that stand for
several requests be among them: asked_by_hand says why.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.stats import norm

from demur.base.arrays import Bools
from demur.base.errors import DataError
from demur.core.rates import most_errors
from demur.stats.judging.betting import upper_mean
from demur.stats.labelled import UNCHECKED, LabelledScores
from demur.stats.sample import asked_requests
from demur.stats.thresholds.problem import Loss, Objective
from demur.stats.units import one_per_group

_OF_HANDS = 0xA4D5  # a stream of its own, whatever the caller's seed also drew
# of a judge, by hand labels, from which on thresholds are chosen by its labels, too
LEAST_YOUDEN = 0.5
# Rows of the kind that no goal tests, labelled by hand, and rows of a kind by the judge, from which
# on they may choose the procedure that is tested first.
FEW_HANDS, FEW_JUDGED = 10, 30


def share_beside_hands(rows: LabelledScores, share: float) -> float:
    """The share of the rows labelled by hand to learn an order on, besides all others.

    So it is learnt on this share of all rows, or more.
    """
    by_hand = float(rows.by_hand_N.mean())
    return max(0.0, 1.0 - (1.0 - share) / by_hand)


def asked_by_hand(rows: LabelledScores, seed: int) -> LabelledScores:
    """The rows, of which those labelled by hand stand for a random sample of requests.

    A random sample of rows is none of requests where a popular prompt is one row: it mostly misses
    the few rows that are a large part of traffic. So the rows of several requests must all be
    labelled by hand, and of their requests as large a part tests as of the other rows. Raises
    DataError where one has no label by hand.
    """
    if rows.hand_N is None or rows.count_N is None or (rows.count_N == 1).all():
        return rows
    known_N, several_N = rows.by_hand_N, rows.count_N > 1
    if (missing_N := several_N & ~known_N).any():
        raise DataError(
            f"{missing_N.sum()} of the {several_N.sum()} rows that stand for several requests have "
            f"no label by hand, first {rows.table.ids[int(np.argmax(missing_N))]!r}: such a prompt "
            "is a larger part of traffic than one row in a random sample",
            "label by hand all rows with a count above 1, and a random sample of the others",
        )
    share = float(known_N[~several_N].mean()) if not several_N.all() else 1.0
    rng = np.random.default_rng([seed, _OF_HANDS])
    tests_N = known_N & (~several_N | (rng.random(len(known_N)) < share))
    asked_N = asked_requests(rows.count_N, ~tests_N, share, rng.random(len(known_N)))
    # a row without a request left is one that the judge labelled as the hand did
    return replace(
        rows,
        hand_N=np.where(asked_N > 0, rows.hand_N, UNCHECKED),
        count_N=np.where(known_N, np.maximum(asked_N, 1), rows.count_N),
        taught_N=(asked_N > 0) & ~tests_N,
    )


def hand_units(rows: LabelledScores) -> Bools:
    """The rows of units of which a hand has labelled some row."""
    known_N = rows.by_hand_N
    if rows.group_N is None:
        return known_N
    return np.asarray(np.isin(rows.group_N, rows.group_N[known_N]), dtype=bool)


def losses_tested(losses: Sequence[Loss], rows: LabelledScores) -> tuple[tuple[Loss, Loss], ...]:
    """Each loss on all rows, with it on those labelled by hand: two of it where rows are not plain.

    A random sample of rows holds large units more often than small ones. So evidence is counted by
    units on one row drawn from each of all units, where a hand has labelled that one; and by
    requests on all rows labelled by hand. A promise must pass both. Raises DataError where no row
    labelled by hand shows a goal's errors.
    """
    known_N, found = rows.by_hand_N, []
    for loss in losses:
        by_requests = replace(loss, unit_N=None).within(known_N)
        if not by_requests.among_N.any():
            raise DataError(
                f"goal {loss.goal.text!r}: none of the {known_N.sum()} rows labelled by hand is "
                f"{loss.goal.rows_words}, nothing can be said of it",
                "label a larger random sample by hand, or drop the goal",
            )
        if not loss.counted_under(loss.among_N, loss.among_N).plain:
            drawn_N = one_per_group(loss.unit_N, loss.among_N, loss.seed, loss.count_N)
            if loss.taught_N is not None:
                drawn_N &= ~loss.taught_N
            alone = replace(loss, unit_N=None, count_N=None, taught_N=None)
            by_units = alone.within(known_N & drawn_N)
            found.append((loss, by_units))
        found.append((loss, by_requests))
    return tuple(found)


def believed(objective: Objective, judged: LabelledScores) -> Objective:
    """The objective, on the rows labelled by hand alone where the judge is hardly to be believed.

    A judge that finds few of the rows to be refused, or takes as many others for such, would have
    thresholds chosen for its own labels. Promises hold whatever the objective says.
    """
    known_N, said_N = judged.by_hand_N, judged.label_N > 0
    refuse_N, answer_N = known_N & objective.should_N, known_N & ~objective.should_N
    # Youden's index of the judge; without rows of either kind nothing speaks against it
    found = said_N[refuse_N].mean() if refuse_N.any() else 1.0
    taken = said_N[answer_N].mean() if answer_N.any() else 0.0
    if found - taken >= LEAST_YOUDEN:
        return objective
    count_N = np.ones(len(known_N), dtype=np.int64) if judged.count_N is None else judged.count_N
    worth_N = np.where(known_N, objective.worth_N, 0.0)
    return replace(objective, worth_N=worth_N, count_N=count_N * known_N)


def tells_apart(losses: Sequence[Loss], rows: LabelledScores, learn_share: float) -> bool:
    """Whether rows that no goal is tested on may choose the procedure: one goal, about all rows to
    be answered or all to be refused, on plain rows, all of those labelled by hand tested.
    """
    if len(losses) != 1 or learn_share or rows.hand_N is None:
        return False
    (loss,) = losses
    whole = loss.goal.whom != "any" and not loss.goal.categories and not loss.goal.where
    plain = loss.goal.by_hand and loss.traffic is None and loss.counted(loss.among_N).plain
    known_N = rows.by_hand_N
    free = int((known_N & ~loss.among_N).sum())
    judged = int((~known_N).sum())
    return bool(whole and plain and free >= FEW_HANDS and judged >= 2 * FEW_JUDGED)


def may_beat_exact_tests(
    losses: Sequence[Loss], rows: LabelledScores, deltas: Sequence[float]
) -> bool:
    """Whether a correction could certify a higher rate of each goal than exact tests on the rows
    labelled by hand, if the judge never erred. Only labels are counted.

    losses: on the rows labelled by hand. deltas: of each method, the correction's last. Rows that
    are linked, stand for several requests or for another mix are beyond a correction.
    """
    exact_delta, delta = deltas[0], deltas[-1]
    plain = rows.group_N is None or len(np.unique(rows.group_N)) == len(rows.group_N)
    plain &= rows.taught_N is None
    if rows.count_N is not None:
        plain &= bool((rows.count_N == 1).all())
    if not plain or not all(loss.goal.by_hand and loss.traffic is None for loss in losses):
        return False
    known = int(rows.by_hand_N.sum())
    judged = len(rows.label_N) - known
    unseen = upper_mean(np.zeros(known), -1.0, 1.0, delta / 2)
    for loss in losses:
        of = int(loss.among_N.sum())
        exact = (most_errors(of, loss.level, exact_delta) or 0) / of
        share = of / known
        # One-sided normal half-width of the judge's mean, if it errs as often as the level says.
        spread = norm.isf(delta / 2) * math.sqrt(loss.level * share / max(judged, 1))
        if loss.level - (unseen + spread) / share <= exact:
            return False
    return True
