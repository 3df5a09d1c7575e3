"""Tests of a window of live scores against the calibration scores, for one look: looking twice
breaks their error rates.

Rows of one session or group err together, and a row may stand for several requests. So each test
is made twice, as everything that counts rows here (demur.stats.units): on one row drawn from each
unit, and on all requests. Its p-value is the larger of the two: right whether units were drawn
independently, or requests.

Shapes: N reference rows, M live rows, B cells, S series.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy.spatial.distance import jensenshannon
from scipy.stats import chi2, false_discovery_control, fisher_exact, ks_2samp

from demur.base.arrays import Doubles, Floats, Ints
from demur.base.errors import DataError
from demur.core.decision import decide_many
from demur.core.policy import Policy
from demur.core.rates import Rate
from demur.stats.drift.scores import series_log_odds, series_names
from demur.stats.measure import Statistic
from demur.stats.units import RowUnits, one_per_group

TestName = Literal["ks", "psi", "js", "refusal_rate"]

MOST_COMPARED = 1_000_000  # requests a side: of more, so many are drawn
CELLS = 10  # of the stability index, by custom: the reference's deciles
_DESCRIBES = Statistic(number=None, why="a divergence describes, it does not test")


@dataclass(frozen=True, kw_only=True, slots=True)
class Shift:
    """One difference between reference and live rows."""

    series: str
    test: TestName
    # ks: distance. psi: index. js: divergence, base 2. refusal_rate: live minus reference
    statistic: float
    p_value: Statistic
    # the p-value after Benjamini and Hochberg 1995 over all that were computed together
    adjusted: Statistic


@dataclass(frozen=True, kw_only=True, slots=True)
class Stability:
    """Population stability over quantile cells of the reference."""

    index: float  # PSI
    p_value: Statistic  # undefined where all reference scores are equal
    js_divergence: float  # base 2, in [0, 1]
    reference_B: tuple[int, ...]  # rows per cell
    live_B: tuple[int, ...]


def compare(
    policy: Policy,
    reference_NC: Floats,
    live_MC: Floats,
    units: tuple[RowUnits, RowUnits] | None = None,
    seed: int = 0,
) -> tuple[Shift, ...]:
    """Compare scores and refusals of live rows with reference rows, in total and per category;
    every p-value adjusted.

    units: of the reference and of the live rows; None: each row is one request alone. seed: draws
    the row of each unit. Raises ScoreError on bad scores, DataError without rows on either side.
    """
    for name, logp in (("reference", reference_NC), ("live", live_MC)):
        if len(logp) == 0:
            raise DataError(f"there is no {name} row", "drift needs rows on both sides")
    both = units or (RowUnits.of(len(reference_NC)), RowUnits.of(len(live_MC)))
    each = [_readings(side, seed) for side in both]
    sides = [(reference_NC, each[0]), (live_MC, each[1])]
    by_requests, *by_units = (
        _shifts(policy, *(logp[rows[reading]] for logp, rows in sides))
        for reading in range(1 if all(side.plain for side in both) else 2)
    )
    if by_units:
        pairs = zip(by_requests, by_units[0], strict=True)
        return adjust([_the_surer(one, other) for one, other in pairs])
    return adjust(by_requests)


def _readings(units: RowUnits, seed: int) -> tuple[Ints, Ints]:
    """The rows by requests, each as often as it was asked, and one drawn row of each unit."""
    rng, count_N = np.random.default_rng([seed, len(units.count_N)]), units.count_N
    if int(count_N.sum()) > MOST_COMPARED:
        count_N = rng.multivariate_hypergeometric(count_N, MOST_COMPARED, method="marginals")
    everyone_N = np.ones(len(count_N), dtype=bool)
    drawn_N = one_per_group(units.group_N, everyone_N, seed, units.count_N)
    return np.repeat(np.arange(len(count_N)), count_N), np.flatnonzero(drawn_N)


def _shifts(policy: Policy, reference_NC: Floats, live_MC: Floats) -> list[Shift]:
    """All differences between independent rows, not yet adjusted."""
    reference_NS, live_MS = series_log_odds(reference_NC), series_log_odds(live_MC)
    choices = [decide_many(policy, logp).choice_N for logp in (reference_NC, live_MC)]
    shifts: list[Shift] = []
    for at, name in enumerate(series_names(policy.taxonomy)):
        shifts += compare_scores(name, reference_NS[:, at], live_MS[:, at])
        # series 0 counts any refusal, series k refusals with category k
        reference, live = (
            Rate(hits=int((c == at if at else c > 0).sum()), of=len(c)) for c in choices
        )
        shifts.append(compare_rates(name, reference, live))
    return shifts


def _the_surer(one: Shift, other: Shift) -> Shift:
    """The first shift with the larger p-value of the two; undefined where either is."""
    values = [one.p_value.number, other.p_value.number]
    if values[0] is None or (values[1] is not None and values[0] >= values[1]):
        return one
    return replace(one, p_value=other.p_value, adjusted=other.p_value)


def compare_scores(series: str, reference_N: Doubles, live_M: Doubles) -> list[Shift]:
    """Kolmogorov-Smirnov, stability index and Jensen-Shannon divergence of one series, not yet
    adjusted.
    """
    ks, stable = ks_2samp(reference_N, live_M), stability(reference_N, live_M)
    found: tuple[tuple[TestName, float, Statistic], ...] = (
        ("ks", float(ks.statistic), Statistic(number=float(ks.pvalue))),
        ("psi", stable.index, stable.p_value),
        ("js", stable.js_divergence, _DESCRIBES),
    )
    return [Shift(series=series, test=t, statistic=s, p_value=p, adjusted=p) for t, s, p in found]


def compare_rates(series: str, reference: Rate, live: Rate) -> Shift:
    """Difference of two refusal rates, Fisher's exact test: the reference is counted too, hence
    uncertain.
    """
    table = [[live.hits, live.of - live.hits], [reference.hits, reference.of - reference.hits]]
    p = Statistic(number=float(fisher_exact(table).pvalue))
    return Shift(
        series=series,
        test="refusal_rate",
        statistic=live.value - reference.value,
        p_value=p,
        adjusted=p,
    )


def stability(reference_N: Doubles, live_M: Doubles, bins: int = CELLS) -> Stability:
    """PSI with half a row added to every count, and its p-value: without drift PSI / (1/N + 1/M) is
    about chi-squared.

    The customary limits 0.1 and 0.25 ignore the number of rows: PSI is (B - 1)(1/N + 1/M) on
    average without drift. Equal edges, as ties make them, become one, and cells without any row are
    left out. Yurdakul and Naranjo 2020.
    """
    # the reference's deciles; ties make edges equal, and those become one
    edge_J = np.unique(np.quantile(reference_N, np.arange(1, bins) / bins))
    counts = [
        np.bincount(np.searchsorted(edge_J, x, side="right"), minlength=len(edge_J) + 1)
        for x in (reference_N, live_M)
    ]
    counts = [c[counts[0] + counts[1] > 0] for c in counts]
    # half a row more in every cell: no logarithm of 0 (Haldane-Anscombe)
    p_B, q_B = ((c + 0.5) / (c + 0.5).sum() for c in counts)
    index = float(((q_B - p_B) * np.log(q_B / p_B)).sum())
    freedom = len(p_B) - 1
    # (q - p) log(q / p) is about (q - p)^2 / p, so without drift the sum over cells is 1/N + 1/M
    # times a chi-squared with one degree of freedom less than cells
    scaled = index / (1.0 / len(reference_N) + 1.0 / len(live_M))
    tested = Statistic(number=float(chi2.sf(scaled, freedom))) if freedom else None
    return Stability(
        index=index,
        p_value=tested or Statistic(number=None, why="all scores fall into one cell"),
        js_divergence=float(jensenshannon(p_B, q_B, base=2) ** 2),
        reference_B=tuple(counts[0].tolist()),
        live_B=tuple(counts[1].tolist()),
    )


def adjust(shifts: Sequence[Shift]) -> tuple[Shift, ...]:
    """Adjust the p-values of all shifts together (Benjamini and Hochberg 1995). Shifts without one
    stay without.
    """
    p_values = [s.p_value.number for s in shifts if s.p_value.number is not None]
    adjusted = iter(false_discovery_control(p_values).tolist() if p_values else [])
    return tuple(
        replace(s, adjusted=Statistic(number=next(adjusted)) if s.p_value.defined else s.p_value)
        for s in shifts
    )
