"""Followed answers as a parquet file: score/<split>-answers.parquet.

1. A row an answer: the prompt's id, its tokens, whether it ended by itself; per category the peak
   and its position, the ends of the peak within the tolerance of engines, and the records, by
   which any threshold's stop is found (demur.core.midway.followed).
2. The position scores and the text are columns only where they were asked for.
3. Its metadata names the format, the model's fingerprint, and how answers were written and
   followed.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from demur.base.arrays import Floats
from demur.base.boundary import json_value, validated
from demur.base.errors import ArtifactError, DemurError, PolicyError
from demur.base.files import write_bytes
from demur.core.example import Split
from demur.core.fingerprint import Fingerprint
from demur.core.midway.followed import AnswerScoring, Record, ScoredAnswer, peaks_of
from demur.core.midway.monitor import Monitor
from demur.core.midway.peaks import AnswerPeaks, require_answered
from demur.store.fingerprint_json import fingerprint_json, read_fingerprint
from demur.store.run import RunFolder
from demur.store.scores.tables import read_table

ANSWERS_FORMAT = b"demur.answers/1"
NAME = "answers"  # of the file, after the split's

_RECORD = pa.struct([("position", pa.int32()), ("value", pa.float64())])
_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("tokens", pa.int32()),
        ("finished", pa.bool_()),
        # lists by category, in the order of the taxonomy
        ("peak", pa.list_(pa.float64())),
        ("position", pa.list_(pa.int32())),
        ("low", pa.list_(pa.float64())),
        ("high", pa.list_(pa.float64())),
        ("records", pa.list_(pa.list_(_RECORD))),
        ("text", pa.string()),
        ("trace", pa.list_(pa.list_(pa.float32()))),
    ]
)
_ASKED_FOR = ("text", "trace")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FollowedAnswer:
    """One row of the file."""

    scored: ScoredAnswer
    text: str | None = None  # kept only where it was asked for
    trace_TC: Floats | None = None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class AnswersFile:
    """The content of a file of followed answers."""

    scoring: AnswerScoring
    fingerprint: Fingerprint
    answers: tuple[FollowedAnswer, ...]

    def require_monitor(self, monitor: Monitor) -> None:
        """Raise PolicyError where a monitor was calibrated on answers written or followed
        otherwise.
        """
        if not self.scoring.follows(monitor):
            raise PolicyError(
                f"the monitor is for answers of {monitor.answers.text}, statistic "
                f"{monitor.statistic}, and these have {self.scoring.answers.text}, statistic "
                f"{self.scoring.statistic}",
                "follow answers as the monitor has them, or calibrate again",
            )

    @property
    def sampled(self) -> bool:
        """Whether the answers were drawn: others to the same prompts would differ."""
        return self.scoring.answers.temperature > 0.0

    @property
    def peaks(self) -> AnswerPeaks:
        """The peaks of all answers."""
        scored = [a.scored for a in self.answers]
        return peaks_of(self.scoring, scored, len(self.fingerprint.tokens) - 1)

    def scored(self, ids: Sequence[str]) -> tuple[ScoredAnswer, ...]:
        """The answers to these prompts, in this order. Raises ScoreError naming the first prompt
        without one.
        """
        require_answered(ids, by_id := {a.scored.id: a.scored for a in self.answers})
        return tuple(by_id[i] for i in ids)


def answers_path(folder: RunFolder, split: Split) -> Path:
    """score/<split>-answers.parquet"""
    return answers_beside(folder.scores(split))


def answers_beside(scores: Path) -> Path:
    """Where the followed answers to the prompts of a score file lie."""
    return scores.with_name(f"{scores.stem}-{NAME}.parquet")


def answers_for(folder: RunFolder, split: Split, monitor: Monitor | None) -> AnswersFile | None:
    """The followed answers of a split that a monitor may be counted on; None without a monitor, or
    where none were followed like this.
    """
    path = answers_path(folder, split)
    if monitor is None or not path.exists():
        return None
    file = read_answers(path)
    return file if file.scoring.follows(monitor) else None


def write_answers(path: Path, file: AnswersFile) -> None:
    """Write followed answers atomically."""
    rows = [_row(answer, file.scoring) for answer in file.answers]
    kept = {name for row in rows for name in row}
    schema = pa.schema([f for f in _SCHEMA if f.name in kept or f.name not in _ASKED_FOR])
    meta = {
        "format": ANSWERS_FORMAT,
        "fingerprint": json.dumps(fingerprint_json(file.fingerprint), ensure_ascii=False),
        "scoring": json.dumps(asdict(file.scoring)),
    }
    buffer = io.BytesIO()
    table = pa.Table.from_pylist(rows, schema=schema.with_metadata(meta))
    pq.write_table(table, buffer, write_page_checksum=True)
    write_bytes(path, buffer.getvalue())


def read_answers(path: Path) -> AnswersFile:
    """Read followed answers. Raises ArtifactError naming the file."""
    table = read_table(path, ANSWERS_FORMAT)
    meta = table.schema.metadata
    try:
        return AnswersFile(
            scoring=validated(AnswerScoring, json_value(meta[b"scoring"]), "metadata"),
            fingerprint=read_fingerprint(json_value(meta[b"fingerprint"]), "metadata"),
            answers=tuple(map(_answer, table.to_pylist())),
        )
    except (KeyError, TypeError, ValueError) as e:
        raise ArtifactError(f"{path} is damaged: {e}", "score again: demur score") from None
    except DemurError as e:
        raise ArtifactError(f"{path}: {e.message}", e.hint) from None


def _row(answer: FollowedAnswer, scoring: AnswerScoring) -> dict[str, Any]:
    scored = answer.scored
    places = range(len(scored.records))
    row: dict[str, Any] = {
        "id": scored.id,
        "tokens": scored.tokens,
        "finished": scored.finished,
        "peak": [scored.peak(k, scoring.statistic) for k in places],
        "position": [scored.records[k][-1].position if scored.records[k] else 0 for k in places],
        "low": list(scored.low),
        "high": list(scored.high),
        "records": [[asdict(record) for record in records] for records in scored.records],
    }
    if answer.text is not None:
        row["text"] = answer.text
    if answer.trace_TC is not None:
        row["trace"] = answer.trace_TC.tolist()
    return row


def _answer(row: dict[str, Any]) -> FollowedAnswer:
    records = tuple(tuple(Record(**record) for record in one) for one in row["records"])
    trace = row.get("trace")
    return FollowedAnswer(
        scored=ScoredAnswer(
            id=row["id"],
            tokens=row["tokens"],
            finished=row["finished"],
            records=records,
            low=tuple(row["low"]),
            high=tuple(row["high"]),
        ),
        text=row.get("text"),
        trace_TC=None if trace is None else _trace(trace, len(records) + 1),
    )


def _trace(rows: Sequence[Sequence[float]], columns: int) -> Floats:
    return np.array(rows, dtype=np.float32).reshape(len(rows), columns)
