"""The mix of rows that promises average over, slice by slice, on the calibrate rows and on the test
rows.
"""

from __future__ import annotations

from demur.base.errors import DataError
from demur.core.goals.goal import Promise
from demur.core.operating_point import never_refused_warnings
from demur.core.rates import divided, mix_words, rows_to_bound, too_small, worst_words
from demur.core.rows.facets import FACETS
from demur.pages.parts import Cell, Table
from demur.stages.report.finished_run import FinishedRun
from demur.stats.contradictions import promised_rate
from demur.stats.mixes import SliceBound, slice_bounds
from demur.store.results.metrics_file import MeasuredRate

CONFIDENCE = 0.95


def slices(m: FinishedRun) -> tuple[Table, ...]:
    """The table of slices of all promises of the calibrated policy that record their mix; empty if
    none does.
    """
    promised = [p for p in m.calibrated.promises if p.level is not None and divided(p.mix)]
    if not promised:
        return ()
    # A heading per promise, then a row per slice.
    rows: list[tuple[Cell, ...]] = []
    for promise in promised:
        rows.append((f"{promise.risk} at {promise.level:g}: {promise.method}",))
        rows += _of_one(promise, m)
    header = ("slice", "share of the mix", "calibrate rows", "test rows", "rows to bound it alone")
    return (
        Table(
            title="What each promise averages over",
            header=header,
            rows=tuple(rows),
            caption="A promise is an average over its mix of rows: traffic with another mix has "
            "another rate, and one slice may be far worse than the whole. Intervals of 95%, each "
            "of one slice alone. The last column says where a slice has too few calibrate rows to "
            "bound its rate at the promised level, and how many would do; a goal of its own, as "
            "in false_refusal[contrast] <= 0.1 or “in every source”, bounds it.",
        ),
    )


def kept(m: FinishedRun) -> tuple[Table, ...]:
    """The table of the mixes that keep each promise, by the test rows; empty without a promise."""
    rows: list[tuple[Cell, ...]] = []
    for promise in m.calibrated.promises:
        parted = {part.facet for part in divided(promise.mix)}
        facets = [facet for facet in FACETS if facet in parted]
        if promise.level is None or not facets:
            continue
        for facet in facets:
            try:
                found = slice_bounds(promise, m.calibrated, m.rows, facet, CONFIDENCE)
            except DataError:  # no test row that the promise is about
                continue
            rows.append((f"{promise.risk} at {promise.level:g}, by {facet}",))
            rows += [
                (b.name, f"{b.share:.1%}", f"at most {b.upper:.1%}", _shares(b)) for b in found
            ]
    if not rows:
        return ()
    header = ("slice", "share of the test rows", "its rate", "shares that keep the level")
    return (
        Table(
            title="Which mixes keep each promise",
            header=header,
            rows=tuple(rows),
            caption=f"By the test rows, with {CONFIDENCE:.0%} confidence for all slices of a facet "
            "together: the rate of a mix is at most the mix of these bounds. The last column lets "
            "one slice be more or less of traffic, the others in proportion. Few test rows make "
            "bounds wide, and “none shown” does not say that none is kept.",
        ),
    )


def _shares(bound: SliceBound) -> str:
    if bound.keeps is None:
        return "none shown"
    low, high = bound.keeps
    if (low, high) == (0.0, 1.0):
        return "any"
    return f"at most {high:.1%}" if low == 0.0 else f"at least {low:.1%}"


def warnings(m: FinishedRun) -> tuple[str, ...]:
    """Warnings about categories that the calibrated policy never refuses, which may be how it keeps
    its promises.
    """
    return tuple(
        f"Warning: the calibrated policy {words}." for words in never_refused_warnings(m.calibrated)
    )


def sentences(m: FinishedRun) -> tuple[str, ...]:
    """A sentence per promise of the calibrated policy: its mix, and its worst slice."""
    found = []
    for p in m.calibrated.promises:
        if p.level is not None and divided(p.mix):
            worst = worst_words(p.mix, p.level)
            found.append(
                f"{p.risk} at {p.level:g} averages over {mix_words(p.mix)}. Worst slice: {worst}."
            )
    return tuple(found)


def _of_one(promise: Promise, m: FinishedRun) -> list[tuple[Cell, ...]]:
    """The rows of the table for one promise, a slice each."""
    # promised_rate gives (rate of the promise, rates of its slices) on the test rows.
    tested = promised_rate(promise, m.calibrated, m.rows)
    after = {(s.facet, s.name): s for s in tested[1]} if tested else {}
    level = promise.level or 1.0
    # Slices too small to bound alone, and the rows of each facet that its shares are out of.
    few = {(s.facet, s.name) for s in too_small(promise.mix, level)}
    total = {
        facet: sum(s.rate.of for s in promise.mix if s.facet == facet)
        for facet in {s.facet for s in promise.mix}
    }
    rows: list[tuple[Cell, ...]] = []
    for part in divided(promise.mix):
        key = (part.facet, part.name)
        there = after.get(key)
        seen: Cell = MeasuredRate.from_core(there.rate, there.by_units) if there else "no row"
        needed = str(rows_to_bound(level)) if key in few else "enough"
        share = f"{part.rate.of / total[part.facet]:.1%}"
        before = MeasuredRate.from_core(part.rate, part.by_units)
        rows.append((part.label, share, before, seen, needed))
    return rows
