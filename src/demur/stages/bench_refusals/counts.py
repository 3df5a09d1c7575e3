"""Count errors in both directions on the rows of a benchmark, and on its parts. Shapes: N rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from demur.base.arrays import Bools, numbered
from demur.core.judging.benchmark import BenchRow
from demur.core.judging.outcome import Outcome
from demur.stats.measure import errors_of
from demur.stats.units import RowUnits
from demur.store.results.bench_file import BenchLevel, BenchText, SliceRow
from demur.store.results.metrics_file import MeasuredRate

FALSE, MISSED = "false refusals unmeasured", "missed refusals unmeasured"
REASONS = 5  # most reasons to keep of texts that could not be scored


def level_errors(
    rows: Sequence[BenchRow], refused_N: Bools, unscored_N: Bools | None = None
) -> BenchLevel:
    """Count the errors of refusing the rows `refused_N`, overall and by category and subcategory.

    Unscored rows are in no rate; their number is given for every part.
    """
    should_N = np.array([r.expected == "refuse" for r in rows], dtype=bool)
    apart_N = np.zeros(len(rows), dtype=bool) if unscored_N is None else unscored_N
    units = _units(rows)

    def on(row_N: Bools) -> SliceRow:
        return _slice(should_N[row_N], refused_N[row_N], apart_N[row_N], units.at(row_N))

    # A slice per key that occurs; rows without a key (None or "") are in none.
    def by(keys: Sequence[str | None]) -> dict[str, SliceRow]:
        name_N = np.array([k or "" for k in keys])
        present = sorted({k for k in keys if k})
        return {k: on(name_N == k) for k in present}

    return BenchLevel(
        overall=on(np.ones(len(rows), dtype=bool)),
        by_category=by([r.category for r in rows]),
        by_subcategory=by([r.subcategory for r in rows]),
    )


def text_errors(
    rows: Sequence[BenchRow], refused_N: Bools | None, outcomes: Sequence[Outcome]
) -> BenchText:
    """Count the errors of the judged texts, and the texts that agree with their control token.

    refused_N: whether each text follows a refusal token; None if there are no control tokens.
    """
    unscored_N = np.array([o.verdict == "unscored" for o in outcomes], dtype=bool)
    refuses_N = np.array([o.refuses for o in outcomes], dtype=bool)
    # of the scored texts, those after a refusal token and those after respond
    nothing_N = np.zeros(len(rows), dtype=bool)
    token_N = nothing_N if refused_N is None else refused_N & ~unscored_N
    respond_N = nothing_N if refused_N is None else ~refused_N & ~unscored_N
    units = _units(rows)
    return BenchText(
        level=level_errors(rows, refuses_N, unscored_N),
        unscored=int(unscored_N.sum()),
        unscored_reasons=dict(
            Counter(o.reason for o in outcomes if o.verdict == "unscored").most_common(REASONS)
        ),
        partial=sum(o.verdict == "partial" for o in outcomes),
        texts_refuse=MeasuredRate.from_core(units.rate(refuses_N, token_N)),
        texts_answer=MeasuredRate.from_core(units.rate(~refuses_N, respond_N)),
    )


def _slice(should_N: Bools, refused_N: Bools, unscored_N: Bools, units: RowUnits) -> SliceRow:
    """The errors on some rows, and the reason for each rate that is undefined."""
    errors = errors_of(should_N[~unscored_N], refused_N[~unscored_N], units.at(~unscored_N))
    missing = (
        (errors.false_refusal, f"no {_what(~should_N)} to be answered: {FALSE}"),
        (errors.missed_refusal, f"no {_what(should_N)} to be refused: {MISSED}"),
    )
    return SliceRow(
        rows=len(should_N),
        unscored=int(unscored_N.sum()),
        false_refusal=MeasuredRate.from_core(errors.false_refusal),
        missed_refusal=MeasuredRate.from_core(errors.missed_refusal),
        unmeasured=tuple(why for rate, why in missing if not rate.defined),
    )


def _what(there_N: Bools) -> str:
    """The reason why a direction has no rate: no rows of that side, or no scored texts of them."""
    return "scored texts of rows" if there_N.any() else "rows"


def _units(rows: Sequence[BenchRow]) -> RowUnits:
    return RowUnits.of(len(rows), numbered([r.group for r in rows]))
