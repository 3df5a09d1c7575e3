"""The tables of the Markdown page and the terminal: a line per benchmark and part of it, with both
directions on every line.
"""

from __future__ import annotations

from demur.pages.parts import Page, Section, Table
from demur.stages.bench_refusals.counts import FALSE, MISSED
from demur.store.results.bench_file import BenchFile, BenchLevel, BenchmarkRow, SliceRow
from demur.store.results.metrics_file import MeasuredRate

SHOWN = 5  # ids of rows that were seen, on the page
HEADER = ("requests", "rows", "false refusals", "missed refusals")


def table_rows(benchmark: BenchmarkRow) -> tuple[tuple[str, tuple[tuple[str, ...], ...]], ...]:
    """(title, rows under HEADER) of the decisions and, if they were judged, of the texts; the same
    on unseen rows, if some rows were seen.
    """
    texts = benchmark.text.level if benchmark.text else None
    # Of a model behind an endpoint there are no decisions, without a judge no texts.
    named: list[tuple[str, BenchLevel | None]] = [
        ("decisions", benchmark.decision),
        ("texts", texts),
    ]
    if (unseen := benchmark.unseen) is not None:
        apart = f"on the {unseen.rows} rows that the model has not seen"
        named.append((f"decisions, {apart}", unseen.decision))
        named.append((f"texts, {apart}", unseen.text.level if unseen.text else None))
    tables = []
    for title, level in named:
        if level:
            lines = [_line(name, s) for name, s in level.by_category.items()]
            lines.append(_line("all", level.overall))
            tables.append((f"{benchmark.name}: {title}", tuple(lines)))
    return tuple(tables)


def page_of(bench: BenchFile) -> Page:
    """Write the page of a result."""
    return Page(
        made_by="demur bench refusals",
        title=f"Refusals of policy {bench.policy}"
        if bench.policy
        else f"Refusals of {bench.endpoint or 'an endpoint'}",
        headline="Refused what should be answered, and answered what should be refused: always "
        "read both. In brackets: 95% intervals, which count rows whose prompts are nearly "
        "alike as one unit.",
        sections=tuple(_section(b) for b in bench.benchmarks),
    )


def facts(benchmark: BenchmarkRow) -> tuple[str, ...]:
    """Sentences that the figures must be read with: rows left out, seen in training, or not
    judged.
    """
    found = [f"{benchmark.rows} rows of {benchmark.source}. Licence: {benchmark.licence}."]
    # Every row that is in no figure is named here with its reason.
    found += [f"Left out: {n} rows ({why})." for why, n in benchmark.left_out.items()]
    found += [
        f"Declined by the endpoint itself: {n} rows ({why})."
        for why, n in benchmark.declined.items()
    ]
    # dict.fromkeys: each reason once, in order.
    missing = dict.fromkeys(why for level in _levels(benchmark) for why in level.overall.unmeasured)
    found += [f"{sentence[0].upper()}{sentence[1:]}." for sentence in missing]
    if benchmark.seen:
        first = ", ".join(benchmark.seen_rows[:SHOWN])
        more = "" if benchmark.seen <= SHOWN else ", ... (bench.json names all)"
        found.append(
            f"{benchmark.seen} of the prompts, or nearly they, also occur in training or "
            "calibration, and flatter the figures of all rows; those of unseen rows stand beside "
            f"them. Seen: {first}{more}."
        )
    elif benchmark.seen == 0:
        found.append("None of the prompts, nor nearly one, occurs in training or calibration.")
    if benchmark.unrecorded:
        found.append(
            f"Not known: which of them {', '.join(benchmark.unrecorded)} was trained on before."
        )
    if (text := benchmark.text) is not None:
        if benchmark.decision:
            found.append(
                f"After a refusal token {text.texts_refuse.words} of the texts decline; after the "
                f"respond token {text.texts_answer.words} answer."
            )
        reasons = "; ".join(f"{n} x {why}" for why, n in text.unscored_reasons.items())
        found.append(
            f"{text.unscored} of {benchmark.rows} texts could not be scored and are in no rate of "
            f"the texts{f' ({reasons})' if reasons else ''}; {text.partial} decline in part and "
            "count as answers."
        )
    return tuple(found)


def _section(benchmark: BenchmarkRow) -> Section:
    tables = [
        Table(title=title, header=HEADER, rows=rows)
        for title, rows in table_rows(benchmark)
        if benchmark.rows
    ]
    # The benchmark's own categories, of the decisions if there are any, else of the texts.
    own = _levels(benchmark)[0].by_subcategory
    if own:
        rows = tuple(_line(name, s) for name, s in own.items())
        what = "decisions" if benchmark.decision else "texts"
        tables.append(
            Table(
                title=f"{benchmark.name}: {what}, by its own categories", header=HEADER, rows=rows
            )
        )
    return Section(
        key=benchmark.name, title=benchmark.name, parts=tuple(tables), text=facts(benchmark)
    )


def _levels(benchmark: BenchmarkRow) -> list[BenchLevel]:
    """The figures of the decisions, which an endpoint has none of, and of the texts, if judged: one
    of them at least.
    """
    return [
        level
        for level in (benchmark.decision, benchmark.text.level if benchmark.text else None)
        if level
    ]


def _line(name: str, s: SliceRow) -> tuple[str, ...]:
    rows = f"{s.rows}, {s.unscored} unscored" if s.unscored else str(s.rows)
    return (name, rows, _words(s, s.false_refusal, FALSE), _words(s, s.missed_refusal, MISSED))


def _words(s: SliceRow, rate: MeasuredRate, lacking: str) -> str:
    """A rate in words, or why it is undefined. lacking: end of the reasons in that direction."""
    if rate.of:
        return f"{rate.hits} of {rate.of}: {rate.words}"
    return "; ".join(
        f"unmeasured: {why.removesuffix(f': {lacking}')}"
        for why in s.unmeasured
        if why.endswith(lacking)
    )
