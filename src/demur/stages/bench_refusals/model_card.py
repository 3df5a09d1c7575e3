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
    """Make an entry per benchmark and error direction, for texts if they were judged, else for
    decisions.

    datasets: names on the Hugging Face hub by the benchmark's name; a benchmark without one has no
    entry, nor has a direction without a rate.
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
    # "name:part" of a benchmark: the part goes into the task, since the dataset has no name for it.
    part = "".join(f"{p}:" for p in row.name.split(":")[1:])
    for direction, meaning in MEANING.items():
        rate = getattr(level.overall, direction)
        if rate.value is not None:
            notes = f"{rate.hits} of {rate.of} {meaning}; lower is better; {how}{some}"
            yield CardEntry(
                dataset=dataset, task=f"{part}{direction}", value=rate.value, notes=notes
            )
