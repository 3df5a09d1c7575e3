"""Plots per category, per kind of row, and of training."""

from __future__ import annotations

import html
import math

import numpy as np

from demur.base.arrays import Doubles
from demur.core.operating_point import operating_point
from demur.core.policy import CategoryPolicy
from demur.core.rates import Rate
from demur.pages.drawing import (
    ANSWER,
    INK,
    MIXED,
    PAGE,
    REFUSE,
    WIDEST_ODDS,
    axis_log_odds,
    line,
    log_odds_axis,
    small_plot,
)
from demur.pages.parts import Cell, Figure, Panel, Spec, Table
from demur.stages.report.finished_run import FinishedRun

KINDS = (
    ("refusal", "should be refused", REFUSE),
    ("contrast", "only look like it", MIXED),
    ("benign", "ordinary", ANSWER),
)
_EFFECT = {
    "heaviest": ", and moving it changes no other category's refusals",
    "sum": ", which all categories share",
}
LOGGED = {
    "loss": "training loss",
    "control_loss_share": "control tokens' share of the loss",
    "validation_loss": "log loss of the decision on validation rows",
    "validation_leftover": "leftover mass on validation rows",
}


def thresholds(m: FinishedRun) -> Figure | None:
    """Plot refusal rate over threshold, per category.

    Drawn from the operating curves in the calibrated policy, so on calibrate rows: a caller would
    look these up before asking for another rate. None if the policy has no curve (rules natural,
    released and bias).
    """
    categories = list(zip(m.calibrated.taxonomy.names, m.calibrated.categories, strict=True))
    drawn = [(name, c) for name, c in categories if c.curve]
    if not drawn:
        return None
    rows = tuple(
        (
            name,
            "never" if math.isinf(c.threshold) else f"{c.threshold:.4f}",
            # The thresholds were chosen on these rows: an interval would claim too much.
            f"{_refused_now(c).value:.1%}",
        )
        for name, c in drawn
    )
    return Figure(
        title="Refusal rate against threshold, per category",
        caption="Each line is the share of all calibrate rows that gets this category's refusal "
        "token if the threshold stands there; the diamond is the threshold "
        f"chosen{_EFFECT.get(m.calibrated.rule, '')}.",
        panels=tuple(Panel(label=name, spec=_operating_curve(c)) for name, c in drawn),
        numbers=Table(
            title="Chosen", header=("category", "threshold", "of the calibrate rows"), rows=rows
        ),
    )


def _operating_curve(category: CategoryPolicy) -> Spec:
    """The refusal rate as a step function of the threshold, and a diamond at the one chosen."""
    steps = line(
        [axis_log_odds(p.threshold) for p in category.curve],
        [p.refusal_rate.value for p in category.curve],
    )
    chosen = line([axis_log_odds(category.threshold)], [_refused_now(category).value]) | {
        "mode": "markers",
        "marker": {"color": REFUSE, "size": 11, "symbol": "diamond"},
    }
    # "vh": up at a threshold, then across, so that a rate holds down to the next stored threshold
    steps["line"] = {"color": INK, "width": 2, "shape": "vh"}
    return small_plot([steps, chosen], log_odds_axis("threshold"), {"tickformat": ".0%"})


def _refused_now(category: CategoryPolicy) -> Rate:
    """The stored rate at the last stored threshold that is at least as strict as the one chosen."""
    return (operating_point(category) or category.curve[0]).refusal_rate


def histograms(m: FinishedRun) -> Figure:
    """Plot the log-odds of refusing at all, a histogram per kind of row.

    Each is a share of its own kind, so that kinds of different size compare; scores beyond the axis
    count in its outermost bars. Kinds without a row have no panel.
    """
    edges = np.linspace(-WIDEST_ODDS, WIDEST_ODDS, 33)
    kind_N = np.array([e.kind for e in m.examples])
    panels: list[Panel] = []
    rows: list[tuple[Cell, ...]] = []
    for kind, words, colour in KINDS:
        score_M = np.clip(m.score_N[kind_N == kind], -WIDEST_ODDS, WIDEST_ODDS)
        if not len(score_M):
            continue
        panels.append(Panel(label=f"{kind} ({words})", spec=_histogram(score_M, edges, colour)))
        # Quantiles are taken in log-odds, then shown as probabilities: the map is monotone.
        quantiles = (1.0 / (1.0 + np.exp(-np.quantile(score_M, [0.1, 0.5, 0.9])))).tolist()
        rows.append((kind, str(len(score_M)), *(f"{q:.3f}" for q in quantiles)))
    return Figure(
        title="Where the scores lie, by kind of prompt",
        caption="Across, the probability of refusing; up, the share of the prompts of a kind: the "
        "less the first histogram overlaps the others, the easier the choice of a threshold.",
        panels=tuple(panels),
        numbers=Table(
            title="Probability of refusing",
            header=(
                "kind",
                "rows",
                "a tenth lies below",
                "half lies below",
                "nine tenths lie below",
            ),
            rows=tuple(rows),
        ),
    )


def _histogram(score_M: Doubles, edges: Doubles, colour: str) -> Spec:
    """Bars at the middle of their bins; heights are shares of these scores."""
    bars = {
        "type": "bar",
        "x": ((edges[1:] + edges[:-1]) / 2).round(4).tolist(),
        "y": (np.histogram(score_M, edges)[0] / len(score_M)).round(5).tolist(),
        "marker": {"color": colour},
        "hovertemplate": "%{y:.1%}<extra></extra>",
    }
    return small_plot([bars], log_odds_axis("probability of refusing"), {"tickformat": ".0%"})


def confusion(m: FinishedRun) -> Figure:
    """Plot the confusion matrix of the calibrated policy: expected choice against decision, counts
    of test rows.

    Shade is the share of the row, so that rare categories show as clearly as "respond". Names are
    escaped because plotly reads some markup in labels.
    """
    names = [html.escape(c) for c in m.evaluation.choices]
    counts = np.array(m.measured.confusion)
    # Each row's shares; the 1 keeps a row without any prompt at 0.
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    heat = {
        "type": "heatmap",
        "x": names,
        "y": names,
        "z": share.round(4).tolist(),
        "zmin": 0,
        "zmax": 1,
        "text": counts.tolist(),
        "texttemplate": "%{text}",
        "colorscale": [[0, PAGE], [1, ANSWER]],
        "showscale": False,
        "xgap": 2,
        "ygap": 2,
        "hovertemplate": "%{y}, decided %{x}: %{text} rows (%{z:.1%})<extra></extra>",
    }
    # "reversed": the first choice at the top, so that the diagonal runs as in a printed matrix.
    plain = {"type": "category", "showgrid": False, "ticks": ""}
    spec = small_plot(
        [heat],
        {**plain, "side": "top", "title": {"text": "decided"}},
        {**plain, "autorange": "reversed"},
    )
    spec["layout"]["height"] = 120 + 46 * len(names)
    rows = tuple(
        (c, *map(str, counted))
        for c, counted in zip(m.evaluation.choices, counts.tolist(), strict=True)
    )
    return Figure(
        title="Confusion between categories, calibrated policy",
        caption="Rows are what ought to happen, columns what was decided; the numbers count test "
        "rows, the shade is their share of the row, and everything off the diagonal is an error.",
        panels=(Panel(label="confusion", spec=spec),),
        numbers=Table(title="Counts", header=("ought to be", *m.evaluation.choices), rows=rows),
    )


_VALIDATED = (
    " Validation rows are never learnt: where their log loss rises, training learns its rows by "
    "heart, and the weights from before that are the model."
)


def training(m: FinishedRun) -> Figure | None:
    """Plot the loss, the control tokens' share of it, and the decision's log loss on validation
    rows, over optimizer steps.

    Read from the history in demur.json; None without one, as with a checkpoint that demur did not
    train.
    """
    history = [h for h in m.model.history if "step" in h] if m.model else []
    panels = []
    for key, words in LOGGED.items():
        logged = [h for h in history if key in h]
        if logged:
            values = line([h["step"] for h in logged], [h[key] for h in logged])
            panels.append(
                Panel(
                    label=words,
                    spec=small_plot(
                        [values], {"title": {"text": "step"}, "rangemode": "tozero"}, {}
                    ),
                )
            )
    if not panels:
        return None
    # The trainer's log and the validation make an entry each for the same step: one table row.
    by_step: dict[float, dict[str, float]] = {}
    for h in history:
        by_step.setdefault(h["step"], {}).update(h)
    # About 8 steps, evenly spaced.
    some = list(by_step.values())[:: max(1, len(by_step) // 8)]
    keys = [key for key in LOGGED if any(key in h for h in history)]
    rows = tuple(
        (f"{h['step']:g}", *(f"{h[key]:.3f}" if key in h else "" for key in keys)) for h in some
    )
    return Figure(
        title="Training",
        caption="The loss should fall and flatten; the share tells how much of the training "
        "signal goes into choosing the control token rather than into wording the answer."
        + (_VALIDATED if "validation_loss" in keys else ""),
        panels=tuple(panels),
        numbers=Table(
            title="Some steps", header=("step", *(LOGGED[key] for key in keys)), rows=rows
        ),
    )
