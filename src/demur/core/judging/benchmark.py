"""Benchmark rows: requests with gold labels, as `demur bench refusals` measures them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from demur.core.example import Expected, Message


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchRow:
    """One request with its gold label."""

    id: str  # "<benchmark>:<part>:<row>", rows counted from 1
    prompt: tuple[Message, ...]  # ends with the user's turn
    expected: Expected
    # ours, of refusals and of what resembles them; None: the benchmark does not tell
    category: str | None = None
    subcategory: str | None = None  # the benchmark's own word
    group: str | None = None  # rows with the same prompt, or nearly the same


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchSet:
    """The rows of one benchmark that can be measured, and how many cannot, by reason."""

    name: str  # "xstest", or with its part "or-bench:toxic"
    source: str  # dataset, config and split, or the file
    licence: str  # as the dataset's page or repository states it
    rows: tuple[BenchRow, ...]
    left_out: Mapping[str, int]  # "no gold label" -> rows
