"""Answers that a monitor stops, as the arrays of demur.stats.thresholds.problem: one threshold, and
the peak of each answer as its score.

1. The categories that may stop an answer share one threshold, so an answer is decided by its
   largest peak among theirs.
2. Procedures compare natural-log probabilities. The statistic "maximum" is one; "cusum", in nats,
   is brought between -1 and 0 by an increasing map, and its threshold back.
3. Peaks have ends of their own for the tolerance of engines: rounding adds up over positions.
4. An answer that no threshold stops, having no token, is in no group.

Shapes: N rows, K categories.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from demur.base.arrays import Bools, Doubles
from demur.base.errors import DataError, GoalError, PolicyError
from demur.core.goals.goal import Goal
from demur.core.midway.monitor import Monitor, Statistic
from demur.core.midway.peaks import AnswerPeaks, stopping
from demur.core.policy import Policy
from demur.core.threshold import NEVER
from demur.stats.labelled import LabelledScores
from demur.stats.thresholds.problem import NO_GROUP, GroupedScores

_LEAST_CUSUM = 1e-9  # nats: a threshold is above 0, where every answer begins


def grouped_answers(goal: Goal, template: Policy, rows: LabelledScores) -> GroupedScores:
    """The rows with one threshold of the template's monitor, and peaks for scores.

    Raises DataError where no answers were scored, PolicyError where the monitor follows others,
    GoalError on a goal about some of the categories that may stop.
    """
    peaks = answers_of(goal, template, rows)
    # A policy without a monitor stops nothing, whatever the threshold is that it has not.
    monitor = template.monitor or peaks.scoring.monitor([1.0] * peaks.peak_NK.shape[1])
    columns = np.array(stopping(monitor), dtype=np.int64)
    names = tuple(template.taxonomy.names[k] for k in columns)
    _check_categories(goal, names)
    written_N = peaks.tokens_N > 0
    found, low, high = (
        as_log(monitor.statistic, value_NK[:, columns].max(axis=1))
        for value_NK in (peaks.peak_NK, peaks.low_NK, peaks.high_NK)
    )
    heaviest_N = columns[peaks.peak_NK[:, columns].argmax(axis=1)] + 1
    grouped = GroupedScores(
        rows=rows,
        names=template.taxonomy.names,
        standing=monitor.thresholds,
        groups=(names,),
        group_N=np.where(written_N, 0, NO_GROUP),
        logq_N=np.where(written_N, found, -np.inf),
        heaviest_N=np.where(written_N, heaviest_N, 0),
    )
    return replace(
        grouped,
        low=replace(grouped, logq_N=np.where(written_N, low, -np.inf)),
        high=replace(grouped, logq_N=np.where(written_N, high, -np.inf)),
    )


def stopped_answers(goal: Goal, policy: Policy, rows: LabelledScores) -> Bools:
    """Which answers a policy's monitor stops, shape (N,). Raises as grouped_answers."""
    if policy.monitor is None:
        return np.zeros(len(rows.label_N), dtype=bool)
    return answers_of(goal, policy, rows).stopped(policy.monitor)


def answers_of(goal: Goal, policy: Policy, rows: LabelledScores) -> AnswerPeaks:
    """The peaks of the rows' answers. Raises DataError where none were scored, PolicyError where
    they were written or followed otherwise than the policy's monitor has it.
    """
    if rows.answers is None:
        raise DataError(
            f"goal {goal.text!r} speaks of whole answers, and none were scored",
            "write and follow them: demur score RUN --answers 256, or [score.answers]",
        )
    scoring = rows.answers.scoring
    if policy.monitor is not None and not scoring.follows(policy.monitor):
        raise PolicyError(
            f"policy {policy.name!r} has a monitor for answers of {policy.monitor.answers.text}, "
            f"statistic {policy.monitor.statistic}, and these have {scoring.answers.text}, "
            f"statistic {scoring.statistic}",
            "score answers as it has them, or calibrate again",
        )
    return rows.answers


def with_threshold(monitor: Monitor, by_category: tuple[float, ...]) -> Monitor:
    """The monitor with what a procedure found: one probability per category, or inf."""
    return replace(
        monitor, thresholds=tuple(_of_log(monitor.statistic, found) for found in by_category)
    )


def as_log(statistic: Statistic, value_N: Doubles) -> Doubles:
    """Values of a statistic as natural-log probabilities, float32 values; -inf where no threshold
    is reached.
    """
    if statistic == "maximum":
        return value_N.astype(np.float32).astype(np.float64)
    logq_N = (-1.0 / (1.0 + value_N)).astype(np.float32).astype(np.float64)
    return np.where(value_N > 0.0, logq_N, -np.inf)


def _of_log(statistic: Statistic, threshold: float) -> float:
    """A threshold of the statistic from one of the probability that as_log made of it."""
    if threshold == NEVER or statistic == "maximum":
        return threshold
    logq = math.log(threshold) if threshold > 0.0 else -math.inf
    return max(-1.0 / logq - 1.0, _LEAST_CUSUM) if logq < 0.0 else NEVER


def _check_categories(goal: Goal, names: tuple[str, ...]) -> None:
    """Raise GoalError where a goal about false stops names some of the categories that may stop.

    They share one threshold, and which of them reaches it first depends on the threshold.
    """
    named = set(goal.categories)
    if goal.of_answerable and named and not named >= set(names):
        raise GoalError(
            f"goal {goal.text!r}: {', '.join(names)} stop answers at one threshold, and which does "
            "depends on it",
            "bound false_stop of all of them, or let one stop: calibrate.monitor.categories",
        )
