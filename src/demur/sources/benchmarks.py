"""Load the rows of a benchmark from the hub or from a local file of the same columns.

demur.sources.benchmark_table has the columns of each. A row without a prompt or without a gold
label is left out and counted by reason; it is never scored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demur.base.errors import ConfigError, DataError
from demur.base.rows import read_rows
from demur.base.suggest import suggest
from demur.core.example import Message
from demur.core.judging.benchmark import BenchRow, BenchSet
from demur.core.rows.shapes import Row
from demur.core.rows.turns import check_text
from demur.sources.benchmark_table import BENCHMARKS, Benchmark, BenchmarkPart

NO_PROMPT, NO_GOLD = "no prompt", "no gold label"
NO_TEXT = "a text that no request can hold: U+0000, or half of a character"

Fetch = Callable[[str, str | None, str], Iterable[Row]]  # (dataset, config, split) -> rows


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchmarkSelection:
    """The benchmark, part and file that a text NAME[:PART][=FILE] selects."""

    benchmark: Benchmark
    part: BenchmarkPart | None = None
    file: Path | None = None


def parse_selection(text: str) -> BenchmarkSelection:
    """Parse NAME[:PART][=FILE].

    Raises ConfigError with a suggestion for an unknown name or part, and for a file without a part
    where the parts of the benchmark have labels of their own.
    """
    selected, _, file = text.partition("=")
    name, colon, part_name = selected.partition(":")
    benchmark = BENCHMARKS.get(name)
    if benchmark is None:
        raise ConfigError(f"unknown benchmark {name!r}", suggest(name, list(BENCHMARKS)))
    parts = {p.name: p for p in benchmark.parts}
    if colon and part_name not in parts:
        raise ConfigError(
            f"benchmark {name!r} has no part {part_name!r}", suggest(part_name, list(parts))
        )
    part = parts[part_name] if colon else benchmark.parts[0] if len(parts) == 1 else None
    if file and part is None:
        raise ConfigError(
            f"benchmark {name!r} has parts with labels of their own, and {file} could be any of "
            "them",
            f"say which: {name}:{next(iter(parts))}={file}; parts: {', '.join(parts)}",
        )
    return BenchmarkSelection(benchmark=benchmark, part=part, file=Path(file) if file else None)


def load_benchmark(selection: BenchmarkSelection, fetch: Fetch) -> BenchSet:
    """Load the rows of a benchmark. fetch: reads the hub; not called where a file is named.

    Raises DataError when there is nothing to read or no row has a prompt column, ConfigError where
    a benchmark is not on the hub.
    """
    benchmark = selection.benchmark
    parts = (selection.part,) if selection.part else tuple(p for p in benchmark.parts if p.usual)
    left_out: Counter[str] = Counter()
    rows: list[BenchRow] = []
    sources = []
    for part in parts:
        if selection.file:
            source, raw = str(selection.file), file_rows(selection.file)
        else:
            source, raw = _from_hub(benchmark, part, fetch)
        sources.append(source)
        rows += _measurable(benchmark, part, source, raw, left_out)
    # A part is named only where there is a choice, so that a benchmark of one part has one name.
    named = selection.part is not None and len(benchmark.parts) > 1
    return BenchSet(
        name=f"{benchmark.name}:{parts[0].name}" if named else benchmark.name,
        source=", ".join(sources),
        licence=benchmark.licence,
        rows=tuple(rows),
        left_out=dict(left_out),
    )


def file_rows(path: Path) -> list[Row]:
    """Read the rows of a local copy. Raises DataError, naming file and fault."""
    rows: list[Row] = [raw.value for raw in read_rows(path)]
    if not rows:
        raise DataError(f"{path} holds no row", "is it cut off?")
    return rows


def _from_hub(benchmark: Benchmark, part: BenchmarkPart, fetch: Fetch) -> tuple[str, list[Row]]:
    """The source of a part, as DATASET:CONFIG:SPLIT, and its rows. Raises as `load_benchmark`."""
    if benchmark.dataset is None:
        raise ConfigError(
            f"benchmark {benchmark.name!r} cannot be loaded by name: {benchmark.no_hub}",
            f"give a local file: {benchmark.name}=FILE",
        )
    source = ":".join(filter(None, (benchmark.dataset, part.config, part.split)))
    try:
        return source, list(fetch(benchmark.dataset, part.config, part.split))
    except DataError as e:
        gated = (
            "this dataset is gated: agree to its terms on its page and log in; or "
            if benchmark.gated
            else ""
        )
        raise DataError(
            e.message, f"{gated}give a local copy: {benchmark.name}:{part.name}=FILE"
        ) from None


def _measurable(
    benchmark: Benchmark, part: BenchmarkPart, source: str, raw: list[Row], left_out: Counter[str]
) -> list[BenchRow]:
    """The rows that can be measured; the others are counted in `left_out`, by reason."""
    if raw and not any(column in row for row in raw for column in benchmark.prompt):
        raise DataError(
            f"{source} has no column {' or '.join(map(repr, benchmark.prompt))}, which "
            f"{benchmark.name!r} reads",
            f"its columns are {', '.join(map(str, raw[0]))}; is it another benchmark's file?",
        )
    rows = []
    for number, row in enumerate(raw, start=1):
        prompt, expected, reason = _prompt(benchmark, row), part.gold(row), ""
        if benchmark.only is not None:
            # a benchmark of several variants of each prompt is measured on one of them
            column, value = benchmark.only
            if row.get(column, value) not in (value, None):
                reason = f"{column} is not {value!r}"
        if not reason and not all(_can_be_sent(m.content) for m in prompt):
            reason = NO_TEXT
        if reason or not prompt or expected is None:
            left_out[reason or (NO_GOLD if prompt else NO_PROMPT)] += 1
            continue
        own = _first(row, benchmark.own)
        if isinstance(own, list):  # HarmBench has several tags a row
            own = ", ".join(map(str, own))
        name = f"{benchmark.name}:{part.name}:{number}"
        rows.append(
            BenchRow(
                id=name,
                prompt=prompt,
                expected=expected,
                category=benchmark.category(row) or None,
                subcategory=None if own is None else str(own),
            )
        )
    return rows


def _prompt(benchmark: Benchmark, row: Row) -> tuple[Message, ...]:
    """The conversation up to the user's last turn; empty if there is none."""
    turns = _turns(_first(row, benchmark.prompt))
    context = _first(row, benchmark.context)
    # The context opens the user's last turn.
    if turns and isinstance(context, str) and context.strip():
        return (
            *turns[:-1],
            Message(role="user", content=f"{context.strip()}\n\n{turns[-1].content}"),
        )
    return turns


def _turns(value: object) -> tuple[Message, ...]:
    """The turns in a prompt column: a text, the first text of a list, or a list of messages.

    Messages end at the user's last one. Empty where the value is none of these.
    """
    if isinstance(value, str):
        return (Message(role="user", content=value),) if value.strip() else ()
    if not isinstance(value, list):
        return ()
    if not any(isinstance(v, Mapping) for v in value):
        return next((t for v in value if (t := _turns(v))), ())
    messages = [_message(v) for v in value]
    while messages and (messages[-1] is None or messages[-1].role != "user"):
        messages.pop()
    return tuple(m for m in messages if m is not None)


def _message(value: object) -> Message | None:
    """A turn with a known role and a text that is not empty, else None."""
    if not isinstance(value, Mapping) or value.get("role") not in ("system", "user", "assistant"):
        return None
    content = value.get("content")
    return (
        Message(role=value["role"], content=content)
        if isinstance(content, str) and content.strip()
        else None
    )


def _can_be_sent(text: str) -> bool:
    """Whether a request may hold a text: no U+0000, no half of a surrogate pair."""
    try:
        check_text(text, "prompt")
    except DataError:
        return False
    return True


def _first(row: Row, columns: Iterable[str]) -> Any:
    """The first value of a row that is set, by the order of the columns; else None."""
    return next((row[c] for c in columns if row.get(c) is not None), None)
