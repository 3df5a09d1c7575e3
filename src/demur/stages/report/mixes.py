"""The mix of rows that promises average over, slice by slice, on the calibrate rows and on the test
rows.
"""

from __future__ import annotations

from demur.core.goals.goal import Promise
from demur.core.operating_point import never_refused_warnings
from demur.core.rates import divided, mix_words, rows_to_bound, too_small, worst_words
from demur.pages.parts import Cell, Table
from demur.stages.report.finished_run import FinishedRun
from demur.stats.contradictions import promised_rate
from demur.store.results.metrics_file import MeasuredRate


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
    after = {(s.facet, s.name): s.rate for s in tested[1]} if tested else {}
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
        seen: Cell = MeasuredRate.from_core(after[key]) if key in after else "no row"
        needed = str(rows_to_bound(level)) if key in few else "enough"
        share = f"{part.rate.of / total[part.facet]:.1%}"
        rows.append((part.label, share, MeasuredRate.from_core(part.rate), seen, needed))
    return rows
