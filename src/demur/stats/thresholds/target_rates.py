"""Target refusal rates: the cut that meets one, and the thresholds of categories that have one."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from demur.base.arrays import Bools
from demur.base.errors import GoalError, GoalInfeasible
from demur.core.goals.goal import Goal
from demur.core.goals.kinds import TargetRate
from demur.core.rates import decimal_fraction
from demur.stats.thresholds.problem import GroupedScores
from demur.stats.thresholds.sweep import Sweep, sweep_of


def cut_at_rate(sweep: Sweep, n: int, goal: TargetRate) -> int:
    """Index of the most lenient cut that refuses at most the asked share of n rows, rounded down.

    Raises GoalInfeasible where ties or too few rows leave only "never", or where fewer rows than
    asked can be refused at all: under rule `heaviest` a category refuses only rows that it is the
    heaviest of.
    """
    level = decimal_fraction(goal.level)
    allowed, refused_J = math.floor(level * n), sweep.at_cuts.refused
    if (reach := int(refused_J[-1])) < allowed:
        raise GoalInfeasible(
            f"goal {goal.text!r}: it asks for {allowed} of {n} rows, and even without a threshold "
            f"{reach} are refused",
            f"ask for at most {math.floor(1000 * reach / n) / 10:g}%, the highest rate in reach "
            "on these rows",
        )
    if (always := int(refused_J[0])) > allowed:
        raise GoalInfeasible(
            f"goal {goal.text!r}: {allowed} of {n} rows may be refused, and {always} are in doubt "
            "at every threshold",
            "ask for a higher rate, or train a model that puts its probability on the control "
            "tokens",
        )
    cut = int((refused_J <= allowed).sum()) - 1
    if cut == 0 and level > 0:
        what = (
            f"the strictest threshold refuses {refused_J[1]}"
            if len(refused_J) > 1
            else "none can be"
        )
        raise GoalInfeasible(
            f"goal {goal.text!r}: {allowed} of {n} rows may be refused, {what}",
            f"calibrate on at least {math.ceil(1 / level)} rows without tied scores, or ask for a "
            "higher rate",
        )
    return cut


def rates_of_categories(
    goals: Sequence[Goal], grouped: GroupedScores, part_N: Bools
) -> dict[int, float]:
    """Thresholds of the categories with a rate to be met, by group, set on a part of the rows."""
    found = {}
    for goal in goals:
        if not isinstance(goal, TargetRate):
            continue
        if goal.category is None or (goal.category,) not in grouped.groups:
            raise GoalError(
                f"goal {goal.text!r} cannot be met beside others",
                "ask for the rate of single categories under rule 'heaviest', or for "
                "'refusal_rate <= ...'",
            )
        g = grouped.groups.index((goal.category,))
        compared_N = grouped.compared_with(g)
        own_N = part_N & (compared_N > -np.inf)
        rows = grouped.rows
        count_M = None if rows.count_N is None else rows.count_N[own_N]
        sweep = sweep_of(compared_N[own_N].astype(np.float32), rows.label_N[own_N], count_M=count_M)
        found[g] = float(sweep.threshold_J[cut_at_rate(sweep, rows.requests(part_N), goal)])
    return found
