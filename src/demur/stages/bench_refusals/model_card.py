"""Both error rates of benchmarks as entries of a model card."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from demur.store.results.bench_file import BenchFile, BenchmarkRow
from demur.store.results.item_results import CardEntry

MEANING = {
    "false_refusal": "refused, of what should be answered",
    "missed_refusal": "not refused, of what should be",
}


def card_entries(bench: BenchFile, datasets: Mapping[str, str]) -> list[CardEntry]:
    """An entry per benchmark and direction that was measured: of the texts where they were judged,
    else of decisions.

    datasets: names on the Hugging Face hub by the benchmark's name; one without such a name has no
    entry.
    """
    return [
        e
        for row in bench.benchmarks
        if row.name in datasets
        for e in _entries(bench, row, datasets[row.name])
    ]


def _entries(bench: BenchFile, row: BenchmarkRow, dataset: str) -> Iterator[CardEntry]:
    level = row.text.level if row.text else row.decision
    if level is None:
        return
    how = f"decisions of policy {bench.policy}"
    if row.text:
        how = f"texts judged by {bench.judge}, {row.text.unscored} of them unscored"
    some = f"; at most {bench.limit} rows of it" if bench.limit else ""
    part = "".join(f"{p}:" for p in row.name.split(":")[1:])
    for direction, meaning in MEANING.items():
        rate = getattr(level.overall, direction)
        if rate.value is not None:
            notes = f"{rate.hits} of {rate.of} {meaning}; lower is better; {how}{some}"
            yield CardEntry(
                dataset=dataset, task=f"{part}{direction}", value=rate.value, notes=notes
            )
