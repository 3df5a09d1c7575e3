"""bench.json: both error rates of one policy, or of an endpoint, on public benchmarks."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from demur.base.boundary import Strict, read_json, validated
from demur.base.files import write_json
from demur.store.fingerprint_json import StoredFingerprint
from demur.store.results.metrics_file import MeasuredRate


class SliceRow(Strict):
    """Both errors on some rows. A direction without rows, or without a scored text, is named and
    has no figure.
    """

    rows: int
    unscored: int = 0  # of them: their text could not be scored, and counts in neither figure
    false_refusal: MeasuredRate  # refused, among rows to be answered
    missed_refusal: MeasuredRate  # answered, among rows to be refused
    unmeasured: tuple[str, ...]  # "no rows to be answered: false refusals unmeasured"


class BenchLevel(Strict):
    """Errors counted on decisions, or on judged texts."""

    overall: SliceRow
    by_category: dict[str, SliceRow]  # ours; rows without one stand in `overall` only
    by_subcategory: dict[str, SliceRow]  # the benchmark's own words


class BenchText(Strict):
    """Rates of texts. Each is over the texts that the judge could score; the others are counted
    apart.
    """

    level: BenchLevel
    unscored: int
    # the most frequent reasons, with their texts
    unscored_reasons: dict[str, int] = Field(default_factory=dict)
    partial: int  # counted as answers
    texts_refuse: MeasuredRate  # the text declines, among rows that got a refusal token
    texts_answer: MeasuredRate  # the text answers, among rows that got the respond token


class UnseenRow(Strict):
    """The same figures on the rows that the model has not seen."""

    rows: int
    decision: BenchLevel | None
    text: BenchText | None


class BenchmarkRow(Strict):
    """One benchmark."""

    name: str
    source: str
    licence: str
    rows: int  # measured
    left_out: dict[str, int]  # reason -> rows that were not
    # Reason -> texts that an endpoint declined itself; refusals, of which no judge was asked.
    declined: dict[str, int] = Field(default_factory=dict)
    # Measured rows whose prompt, or nearly it, also occurs in training or calibration; null if that
    # is not known.
    seen: int | None
    seen_rows: tuple[str, ...] = ()  # their ids
    unseen: UnseenRow | None = None  # null where none was seen
    unrecorded: tuple[str, ...] = ()  # models that it began as, of whose rows there is no record
    decision: BenchLevel | None  # null for an endpoint: it shows no decision
    text: BenchText | None  # null if no text was asked for


class BenchFile(Strict):
    """bench.json."""

    format: Literal["demur.bench/1"] = "demur.bench/1"
    model: StoredFingerprint | None  # null for an endpoint
    endpoint: str | None = None  # the name under which an endpoint answered, where one was asked
    policy: str | None  # null for an endpoint
    policy_digest: str | None
    judge: str | None
    limit: int | None  # at most so many rows of each benchmark
    benchmarks: tuple[BenchmarkRow, ...]


def write_bench(path: Path, bench: BenchFile) -> None:
    """Write bench.json atomically."""
    write_json(path, bench.model_dump(mode="json"))


def read_bench(path: Path) -> BenchFile:
    """Read bench.json. Raises ArtifactError naming the file and what is wrong with it."""
    return validated(BenchFile, read_json(path), str(path))
