"""Axes, curves and layouts that all plots share. Specs are plain plotly.js dictionaries; colours
name CSS variables, for dark mode and print (plots.js puts their values in).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from demur.core.threshold import log_odds
from demur.pages.parts import Cell, Panel, RateWithInterval, Spec

INK, SOFT, PAGE, REFUSE, ANSWER, MIXED = (
    "--ink",
    "--soft",
    "--page",
    "--refuse",
    "--answer",
    "--mixed",
)
WIDEST_ODDS = 9.2  # log-odds of 0.9999: what lies beyond is drawn there
LEAST_RATE, MOST_RATE = 0.0015, 0.93  # what lies beyond is drawn there, on normal-deviate axes
MOST_POINTS = 400  # of one curve: more cannot be seen


def rate_plot(data: list[Spec], x: str, y: str) -> Spec:
    """Plot rates from 0 to 1 on both axes. x, y: the titles of the axes."""
    axis = {
        "automargin": True,
        "tickformat": ".0%",
        "dtick": 0.2,
        "range": [-0.02, 1.02],
        "zeroline": False,
    }
    layout = {
        "height": 420,
        "margin": {"l": 10, "r": 16, "t": 10, "b": 10},
        "xaxis": {"title": {"text": x}, **axis},
        "yaxis": {"title": {"text": y}, **axis},
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        "hovermode": "closest",
    }
    return {"data": data, "layout": layout}


def small_plot(data: list[Spec], x_axis: Spec, y_axis: Spec) -> Spec:
    """Plot one of several panels side by side, without a legend. x_axis, y_axis: settings that
    differ from a plain axis.
    """
    layout = {
        "height": 230,
        "margin": {"l": 10, "r": 16, "t": 10, "b": 10},
        "xaxis": {"automargin": True, "zeroline": False, **x_axis},
        "yaxis": {"automargin": True, "rangemode": "tozero", **y_axis},
        "showlegend": False,
        "bargap": 0.05,
    }
    return {"data": data, "layout": layout}


def line(x: Sequence[float], y: Sequence[float], name: str = "") -> Spec:
    """Plot a curve, thinned to MOST_POINTS and five digits, because the page carries every number.

    name: as in the legend; without one the curve is not listed there. Keys may be overridden with
    `|`.
    """
    # Every step-th point, and always the last: a thinned curve must still reach its end.
    step = max(1, math.ceil(len(x) / MOST_POINTS))
    at = sorted({*range(0, len(x), step), *([len(x) - 1] if len(x) else [])})
    values = {"x": [_short(x[n]) for n in at], "y": [_short(y[n]) for n in at]}
    style = {"line": {"color": INK, "width": 2}, "showlegend": bool(name), "hoverinfo": "x+y"}
    return {"type": "scatter", "mode": "lines", "name": name, **style, **values}


def diagonal() -> Spec:
    """Plot the dotted diagonal: chance on an ROC plot, perfect calibration on a reliability one."""
    return line([0.0, 1.0], [0.0, 1.0]) | {
        "line": {"color": SOFT, "width": 1, "dash": "dot"},
        "hoverinfo": "skip",
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class BinMark:
    """One bin of a reliability diagram."""

    low: float  # the bin's smallest probability
    high: float  # the largest
    mean: float  # mean probability of its rows
    rate: RateWithInterval  # the observed rate among its rows


def reliability(
    seen: Mapping[str, Sequence[BinMark]], says: str, happens: str
) -> tuple[tuple[Panel, ...], tuple[tuple[Cell, ...], ...]]:
    """Plot reliability diagrams by name, and make the rows of their table: range of probabilities,
    rows in the bin, mean probability, observed rate.

    says, happens: the axes' titles. The table has a heading per diagram where there are several.
    """
    panels: list[Panel] = []
    rows: list[tuple[Cell, ...]] = []
    for name, marks in seen.items():
        panels.append(Panel(label=name, spec=rate_plot([diagonal(), _marks(marks)], says, happens)))
        # A row of one cell is a heading.
        rows += [(name,)] if len(seen) > 1 else []
        rows += [
            (f"{m.low:.3f} to {m.high:.3f}", str(m.rate.of), f"{m.mean:.1%}", m.rate) for m in marks
        ]
    return tuple(panels), tuple(rows)


def _marks(marks: Sequence[BinMark]) -> Spec:
    """Plot the observed rate over the mean probability, each with its interval."""
    rates = [m.rate for m in marks]
    # Plotly draws error bars by their lengths up and down from the mark, not by their ends.
    value = [r.value or 0.0 for r in rates]
    bars: Spec = {
        "type": "data",
        "array": [(r.high or 0.0) - v for r, v in zip(rates, value, strict=True)],
        "arrayminus": [v - (r.low or 0.0) for r, v in zip(rates, value, strict=True)],
        "color": REFUSE,
        "thickness": 1,
        "width": 0,
    }
    return line([m.mean for m in marks], value) | {
        "mode": "markers+lines",
        "marker": {"color": REFUSE, "size": 8},
        "line": {"color": REFUSE, "width": 1},
        "error_y": bars,
        "customdata": [r.of for r in rates],
        "hovertemplate": "says %{x:.1%}, is %{y:.1%} of %{customdata} prompts<extra></extra>",
    }


def axis_log_odds(probability: float) -> float:
    """Log-odds of a probability or threshold in [0, inf], cut off where the axis ends."""
    # 0 and everything from 1 on (thresholds may be "never": inf) have no finite log-odds.
    if probability <= 0.0 or probability >= 1.0:
        return math.copysign(WIDEST_ODDS, probability - 0.5)
    return float(np.clip(log_odds(np.array(math.log(probability))), -WIDEST_ODDS, WIDEST_ODDS))


def log_odds_axis(title: str) -> Spec:
    """An axis of probabilities, spread out near 0 and 1 where scores pile up. Values are those of
    axis_log_odds.
    """
    ticks = (0.001, 0.03, 0.5, 0.97, 0.999)
    return {
        "title": {"text": title},
        "tickvals": [axis_log_odds(p) for p in ticks],
        "ticktext": [f"{p:g}" for p in ticks],
        "tickangle": 0,
        "range": [-WIDEST_ODDS - 0.3, WIDEST_ODDS + 0.3],
    }


def probit(rate: float) -> float:
    """The normal deviate of a rate, cut off where the axis ends: 0 and 1 have none."""
    return NormalDist().inv_cdf(min(max(rate, LEAST_RATE), MOST_RATE))


def probit_axis(title: str) -> Spec:
    """An axis of rates, spread out near 0. Values are those of probit."""
    ticks = (0.002, 0.01, 0.05, 0.2, 0.5, 0.8)
    return {
        "title": {"text": title},
        "automargin": True,
        "zeroline": False,
        "tickvals": [probit(t) for t in ticks],
        "ticktext": [f"{100 * t:g}%" for t in ticks],
        "tickangle": 0,
        "range": [probit(LEAST_RATE), probit(MOST_RATE)],
    }


def _short(value: float) -> float:
    return float(f"{value:.5g}")
