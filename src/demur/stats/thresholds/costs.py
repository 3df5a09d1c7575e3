"""Decisions of least expected cost, from calibrated probabilities. They are as good as the calibration near the cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from demur.base.errors import GoalError
from demur.core.goals.kinds import Cost, Goal
from demur.core.goals.results import Promise
from demur.core.policy import Policy
from demur.stats.labelled import LabelledScores
from demur.stats.thresholds.curve import with_curves
from demur.stats.thresholds.select import fitting


def by_probabilities(goals: Sequence[Goal], template: Policy, rows: LabelledScores, *, data_digest: str) -> Policy:
    """The template with the thresholds of least expected cost, its promise, and operating curves on these rows.

    No label is looked at: the calibrator answers for the thresholds.

    Raises GoalError unless the one goal gives costs that thresholds can weigh, under rule `heaviest`.
    """
    goal = goals[0]
    if len(goals) != 1 or not isinstance(goal, Cost):
        raise GoalError(
            f"goals {', '.join(repr(g.text) for g in goals)} cannot be met by probabilities alone",
            "one goal such as 'cost: false=1 missed=5', or cost_from = \"labels\"",
        )
    if template.rule != "heaviest" or goal.wrong:
        raise GoalError(
            f"goal {goal.text!r} under rule {template.rule!r}: thresholds weigh a false against a missed refusal, each "
            "category by itself",
            "use rule 'heaviest' and no cost of 'wrong', or cost_from = \"labels\"",
        )
    fitting(goal, template)
    promise = Promise(
        goal=goal,
        confidence=None,
        status="measured",
        rate=None,
        data_digest=data_digest,
        method="by calibrated probabilities, no label counted; holds as far as they do (Elkan 2001)",
    )
    return replace(
        with_curves(template.with_thresholds(goal.thresholds(template.taxonomy.names)), rows), promises=(promise,)
    )
