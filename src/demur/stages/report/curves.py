"""Plots of the errors within reach of the scores, at any threshold.

All are drawn on test rows. Except for reliability they need rows of both kinds, to be refused and
to be answered: where there is only one, the function returns None and the page goes without.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from demur.core.calibrator import IDENTITY
from demur.core.goals.promised import FalseRefusal, MissedRefusal
from demur.core.policy import Policy
from demur.pages.drawing import (
    ANSWER,
    PAGE,
    REFUSE,
    BinMark,
    diagonal,
    line,
    probit,
    probit_axis,
    rate_plot,
)
from demur.pages.drawing import reliability as reliability_of
from demur.pages.parts import Figure, Panel, Spec, Table
from demur.stages.report.finished_run import FinishedRun
from demur.stats.measure import refusal_log_odds, row_units
from demur.stats.points import precision_recall_points, reliability_bins, roc_points
from demur.store.results.metrics_file import MeasuredRate, PolicyMetrics

EVERY = "every shared threshold"
SYMBOLS = ("circle", "diamond", "square", "triangle-up", "cross", "star")


def roc(m: FinishedRun) -> Figure | None:
    """Plot the ROC curve: true-positive over false-positive rate, with a mark per policy.

    The line sweeps demur.stats.measure.refusal_log_odds, as the area does. Policies with a
    threshold per category decide on the heaviest category instead, so their marks may lie beside
    the line.
    """
    area = m.evaluation.ranking["all"].auroc
    if area is None:
        return None
    points = roc_points(m.should_N, m.score_N)
    overall = [p.decision.overall for p in m.evaluation.policies]
    marks = _policy_marks(
        m.evaluation.policies, [(e.false_refusal.value, e.caught.value) for e in overall]
    )
    curve = line([p.x for p in points], [p.y for p in points], EVERY)
    # The table: the most caught at or below each false-refusal rate.
    levels = (0.01, 0.02, 0.05, 0.1, 0.2)
    caught = [max((p.y for p in points if p.x <= level), default=0.0) for level in levels]
    return Figure(
        title=f"ROC, area {area:.3f}",
        caption="Up and to the left is better: the line is what one threshold on all refusal "
        "tokens together reaches on the test rows, the marks are the policies, and the dotted "
        "line is chance.",
        panels=(
            Panel(
                label="ROC", spec=rate_plot([diagonal(), curve, *marks], "false refusals", "caught")
            ),
        ),
        numbers=Table(
            title="On the line",
            header=("false refusals at most", "caught"),
            rows=tuple(
                (f"{level:.0%}", f"{y:.1%}") for level, y in zip(levels, caught, strict=True)
            ),
        ),
    )


def precision_recall(m: FinishedRun) -> Figure | None:
    """Plot precision over recall, with a mark per policy.

    A policy that refuses nothing has no precision and no mark. The table gives the best precision
    at or beyond each recall, because precision is not monotone along the line.
    """
    area = m.evaluation.ranking["all"].average_precision
    if area is None:
        return None
    points = precision_recall_points(m.should_N, m.score_N)
    overall = [p.decision.overall for p in m.evaluation.policies]
    marks = _policy_marks(
        m.evaluation.policies, [(e.caught.value, e.precision.value) for e in overall]
    )
    curve = line([p.x for p in points], [p.y for p in points], EVERY)
    levels = (0.5, 0.7, 0.8, 0.9, 0.95)
    best = [max((p.y for p in points if p.x >= level), default=0.0) for level in levels]
    return Figure(
        title=f"Precision and recall, average precision {area:.3f}",
        caption="Up and to the right is better: across, the share of the prompts to be refused "
        "that is refused; up, the share of the refused prompts that should be.",
        panels=(
            Panel(
                label="precision and recall",
                spec=rate_plot([curve, *marks], "caught (recall)", "precision"),
            ),
        ),
        numbers=Table(
            title="On the line",
            header=("caught at least", "best precision"),
            rows=tuple((f"{level:.0%}", f"{y:.1%}") for level, y in zip(levels, best, strict=True)),
        ),
    )


def trade_off(m: FinishedRun) -> Figure | None:
    """Plot false against missed refusals: a detection error trade-off curve (Martin et al. 1997).

    Both axes are normal deviates of the rates, which spreads out the small ones that matter; rates
    of 0, which have no finite deviate, stand at the edge. Its numbers are the policies', with
    intervals.
    """
    if m.evaluation.ranking["all"].auroc is None:
        return None
    points = roc_points(m.should_N, m.score_N)
    curve = line([probit(p.x) for p in points], [probit(1.0 - p.y) for p in points], EVERY) | {
        "hoverinfo": "skip"
    }
    overall = [p.decision.overall for p in m.evaluation.policies]
    # Both rates are defined: the area under the curve was.
    chosen = [
        (probit(e.false_refusal.value or 0.0), probit(e.missed_refusal.value or 0.0))
        for e in overall
    ]
    # Drawn first, so that curve and marks lie on top of it.
    region = _promised_region(m.calibrated)
    spec = rate_plot([*region, curve, *_policy_marks(m.evaluation.policies, chosen)], "", "")
    spec["layout"] |= {
        "xaxis": probit_axis("false refusals"),
        "yaxis": probit_axis("missed refusals"),
    }
    rows = tuple(
        (p.goal, e.false_refusal, e.missed_refusal)
        for p, e in zip(m.evaluation.policies, overall, strict=True)
    )
    return Figure(
        title="False refusals against missed refusals",
        caption="Down and to the left is better; small rates are stretched (below 0.15% they "
        "stand at the edge), and going from one mark to another takes no training and no call of "
        "the model."
        + (
            " The shade spans the levels certified for the calibrated policy, and for no other."
            if region
            else ""
        ),
        panels=(Panel(label="trade-off", spec=spec),),
        numbers=Table(
            title="The policies", header=("policy", "false refusals", "missed refusals"), rows=rows
        ),
    )


def _promised_region(policy: Policy) -> list[Spec]:
    """The rectangle of rates that a policy's certified promises allow; empty without a certified
    promise about all categories.
    """
    # The strictest level on either side; a side without one reaches to the edge of the plot.
    kept = [p.goal for p in policy.promises if p.status == "certified"]
    false = min((g.level for g in kept if isinstance(g, FalseRefusal) and not g.part), default=None)
    missed = min(
        (g.level for g in kept if isinstance(g, MissedRefusal) and not g.part), default=None
    )
    if false is None and missed is None:
        return []
    low, right, top = (probit(1.0 if rate is None else rate) for rate in (0.0, false, missed))
    edge = line([low, right, right, low, low], [low, low, top, top, low], "certified levels")
    look = {
        "fill": "toself",
        "fillcolor": ANSWER,
        "opacity": 0.15,
        "line": {"width": 0, "color": ANSWER},
    }
    return [edge | look | {"hoverinfo": "skip"}]


def reliability(m: FinishedRun) -> Figure:
    """Plot how often prompts should be refused, over the probability of refusing them.

    Bins of nearly equal mass (demur.stats.points.reliability_bins), each with the interval of its
    units: scores pile up near 0 and 1, where bins of equal width would hide what happens. Two plots
    where the policy has a calibrator.
    """
    seen = {"the probabilities as they are": m.score_N}
    if m.calibrated.calibrator != IDENTITY:
        raw_N = refusal_log_odds(replace(m.calibrated, calibrator=IDENTITY), m.rows)
        seen = {"before calibration": raw_N, "after calibration": m.score_N}
    marks = {}
    for label, score_N in seen.items():
        # exp must not overflow; a probability below e**-50 might as well be 0.
        q_N = 1.0 / (1.0 + np.exp(-np.clip(score_N, -50.0, 50.0)))
        bins = reliability_bins(m.should_N, q_N, row_units(m.rows))
        marks[label] = [
            BinMark(low=b.low, high=b.high, mean=b.mean, rate=MeasuredRate.from_core(b.observed))
            for b in bins
        ]
    panels, rows = reliability_of(marks, "probability of refusing", "should be refused")
    return Figure(
        title="Reliability of the probabilities",
        caption="On the dotted line a probability means what it says, below it the model is too "
        "ready to refuse; every mark holds about as many test rows as the next, and its bar is a "
        "95% interval.",
        panels=panels,
        numbers=Table(
            title="Bins",
            header=("probability", "rows", "mean probability", "should be refused"),
            rows=rows,
        ),
    )


def _policy_marks(
    policies: Sequence[PolicyMetrics], points: Sequence[tuple[float | None, float | None]]
) -> list[Spec]:
    """A mark per policy, each of its own shape; a policy with an undefined rate has none.

    policies: natural first, then the calibrated one, which alone is coloured like refusals. points:
    (x, y) of each, in the plot's own coordinates. Goals are escaped because plotly reads some
    markup in names.
    """
    marks: list[Spec] = []
    for n, (policy, (x, y)) in enumerate(zip(policies, points, strict=True)):
        if x is None or y is None:
            continue
        # n == 1: the calibrated policy. With more than six policies shapes repeat, names do not.
        colour = REFUSE if n == 1 else ANSWER
        symbol = SYMBOLS[n % len(SYMBOLS)]
        marks.append(
            {
                "type": "scatter",
                "mode": "markers",
                "x": [x],
                "y": [y],
                "name": html.escape(f"calibrated: {policy.goal}" if n == 1 else policy.goal),
                "marker": {
                    "color": colour,
                    "size": 12,
                    "symbol": symbol,
                    "line": {"color": PAGE, "width": 1},
                },
                "hoverinfo": "name",
                "hoverlabel": {"namelength": -1},
            }
        )
    return marks
