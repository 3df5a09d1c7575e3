"""Which procedure gets most of delta, where a judge labelled most rows and people a random few.

1. Each procedure tests along a path of thresholds, on rows that people labelled. On all others it
   is estimated what the thresholds are worth at which its test will probably end. A path that these
   rows teach is estimated on the half of them that it was not learnt on.
2. The procedure that is worth most may err as often as the whole of delta allows. An exact test has
   a smaller size than its delta, because errors are whole numbers; what that leaves goes to the
   next, and so on. Counts of rows fix all sizes, so that all hold together (union bound).

Some of the rows that the judge takes for the goal's kind are of the other. How many, and how often
they err, is estimated by rows of the other kind that people labelled: no goal is tested on these.

Shapes: S steps of a path.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from demur.base.arrays import Bools, Doubles, Ints
from demur.core.rates import binomial_cdf, most_errors
from demur.stats.labelled import LabelledScores
from demur.stats.thresholds.objective import linear_worth
from demur.stats.thresholds.problem import LearnTestSplit
from demur.stats.thresholds.procedures.hand_labels import FEW_JUDGED, LEAST_YOUDEN
from demur.stats.thresholds.procedures.search import (
    ThresholdPath,
    cumulative,
    even_path,
    split_rows,
)
from demur.stats.thresholds.procedures.task import CertifyTask

_OF_HALVES = 0xF157  # a stream of its own, whatever the caller's seed also drew
_HALVINGS = 2  # of the rows that are not tested, at random
_LIMITS = (0.5, 1.0, 1.5)  # of the rate at which tests will probably end: looked at all around it
# standard errors by which another procedure than one shared threshold must look better
_MARGIN = 0.25
_LEAST_DELTA = 1e-6  # below which nothing is left for another procedure

Tries = list[tuple[str, CertifyTask]]
# makes the path of a task, learnt on one part of the rows
Learner = Callable[[CertifyTask, LearnTestSplit], ThresholdPath]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Untested:
    """The rows that no goal is tested on, and what they say of the judge."""

    rows_N: Bools
    kind_N: Bools  # of the goal's kind, by the judge
    other_N: Bools  # of the other kind, by people
    foreign: float  # the share of the rows of kind_N that are of the other kind
    worth_N: Doubles  # of refusing each row of rows_N, 0 elsewhere
    seed: int
    learner: Learner


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Steps:
    """A path of thresholds, by the step after which it refuses each row."""

    first_N: Ints
    steps: int
    answers_err: bool  # whether the goal's errors are answers, not refusals


def by_worth(tried: Tries, judged: LabelledScores, delta: float, learner: Learner) -> Tries:
    """The procedures by what they are probably worth, each with its share of delta; without those
    that nothing is left for. One shared threshold is the first of `tried`, and stays the first
    where the judge is hardly to be believed.

    learner: makes the path of `path`. For tasks that tells_apart says so of.
    """
    (loss,) = tried[0][1].losses
    tests = int(loss.among_N.sum())
    untested = _untested(tried[-1][1], judged, learner)
    order = list(range(len(tried)))
    if untested is not None:
        worth = _worths(tried, untested, (most_errors(tests, loss.level, delta) or 0) / tests)
        order.sort(key=lambda n: -worth[n])  # stable: the first of equals
    found: Tries = []
    for n in order:
        most = most_errors(tests, loss.level, delta) if delta > _LEAST_DELTA else None
        if most is None:
            break
        size = binomial_cdf(most, tests, loss.level)
        found.append((tried[n][0], replace(tried[n][1], delta=size)))
        delta -= size
    # too few rows even without an error: the first procedure says so
    return found or [(tried[0][0], replace(tried[0][1], delta=delta))]


def _untested(task: CertifyTask, judged: LabelledScores, learner: Learner) -> _Untested | None:
    """The rows that no goal is tested on; None where the judge is hardly to be believed by them.

    Of tested rows only the number counts, never a score or the judge's label.
    """
    (loss,) = task.losses
    free_N = split_rows(task.grouped, 0.0, task.seed, task.losses).learn_N
    known_N, refused_N = judged.by_hand_N, judged.label_N != 0
    # rows that the judge takes for the kind that the goal speaks of
    taken_N = refused_N if loss.goal.whom == "refuse" else ~refused_N
    kind_N, other_N = free_N & ~known_N & taken_N, free_N & known_N
    if kind_N.sum() < FEW_JUDGED:
        return None
    known, other = int(known_N.sum()), int(other_N.sum())
    # shares of all rows: of the other kind but taken for the goal's, and taken for it at all
    wrongly = float(taken_N[other_N].mean())
    foreign, taken = wrongly * other / known, float(taken_N[free_N & ~known_N].mean())
    # Youden's index of the judge
    if (taken - foreign) * known / (known - other) - wrongly < LEAST_YOUDEN:
        return None
    worth_N = linear_worth(task.grouped, task.objective, free_N)
    return _Untested(
        rows_N=free_N,
        kind_N=kind_N,
        other_N=other_N,
        foreign=min(foreign / taken, 1.0),
        worth_N=worth_N,
        seed=task.seed,
        learner=learner,
    )


def _worths(tried: Tries, untested: _Untested, limit: float) -> list[float]:
    """What the thresholds are worth at which each procedure's test will probably end, as a share of
    all worth; of all but the first less a margin. limit: the rate at which tests end.
    """
    rows_N = untested.rows_N
    fixed = [None if method == "path" else _steps(method, t, untested) for method, t in tried]
    rate_S, other_S, _ = _along(untested, fixed[0] or _steps(*tried[0], untested), rows_N)
    # Around the limit, the rates by the judge at which one shared threshold errs so often: some of
    # the rows that err are foreign.
    ends = [
        rate_S[rate_S <= (1.0 - untested.foreign) * f * limit + untested.foreign * other_S]
        for f in _LIMITS
    ]
    rng, worth_P = np.random.default_rng([untested.seed, _OF_HALVES]), np.zeros(len(tried))
    for _ in range(_HALVINGS):
        half_N = rng.random(len(rows_N)) < 0.5
        for part_N in (half_N, ~half_N):
            for n, (method, task) in enumerate(tried):
                steps = fixed[n] or _steps(method, task, untested, rows_N & ~part_N)
                rate_S, _, worth_S = _along(untested, steps, rows_N & part_N)
                worth_P[n] += sum(worth_S[rate_S <= end.max(initial=0.0)].max() for end in ends)
    weight_N = np.abs(untested.worth_N)
    worth_P /= max(_HALVINGS * len(_LIMITS) * float(weight_N.sum()), 1e-12)
    # one standard error of a share of so many rows, weighed
    error = float(np.sqrt((weight_N**2).sum()) / max(weight_N.sum(), 1e-12))
    worth_P[1:] -= _MARGIN * error
    return [float(worth) for worth in worth_P]


def _steps(
    method: str, task: CertifyTask, untested: _Untested, learn_N: Bools | None = None
) -> _Steps:
    """After which step of its path a procedure refuses each row. learn_N: rows that teach the path
    of `path`; those of the others need none of the judge's labels.
    """
    if learn_N is not None:
        path = untested.learner(task, LearnTestSplit(learn_N=learn_N, test_N=~learn_N))
    else:
        # The thresholds of one score have one order, whatever rows show them.
        own_N = untested.rows_N if method == "shared" else untested.other_N
        path = even_path(task.grouped, own_N, task.fixed)
    return _Steps(
        first_N=path.first_step(task.grouped),
        steps=len(path.group_S),
        answers_err=task.losses[0].when == "answered",
    )


def _along(untested: _Untested, steps: _Steps, part_N: Bools) -> tuple[Doubles, Doubles, Doubles]:
    """Along a path the rate of errors of the judge's kind, on rows of part_N, that of the other
    kind, and the worth on part_N. Shape (S + 1,) each.
    """
    kind_S, other_S = (
        cumulative(steps.first_N, steps.steps, rows_N.astype(np.float64))
        / max(int(rows_N.sum()), 1)
        for rows_N in (untested.kind_N & part_N, untested.other_N)
    )
    worth_N = np.asarray(untested.worth_N * part_N, dtype=np.float64)
    worth_S = cumulative(steps.first_N, steps.steps, worth_N)
    if steps.answers_err:
        kind_S, other_S = 1.0 - kind_S, 1.0 - other_S
    return kind_S, other_S, worth_S
