"""Scores and branches as parquet files.

1. A score file has a column of ids, one of natural-log probabilities per control token, named by
   the token, and the leftover mass; where requests came in sessions, a column of these, where rows
   stand for several, a column of counts, and a column for each facet that requests say, such as
   their tenant. Its metadata names the format and the model's fingerprint.
2. A branch file has a row for each text: the prompt's id, the control token before it, the text,
   and the judge's verdict. Its metadata names the digest of model and prompts.
3. Pages carry checksums: a damaged file is an error, not other numbers.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from demur.base.boundary import json_value
from demur.base.errors import ArtifactError, DemurError
from demur.base.files import write_bytes
from demur.core.fingerprint import Fingerprint
from demur.core.judging.outcome import Outcome
from demur.core.ports import Answer
from demur.core.rows.facets import OF_LABELS, Facet
from demur.core.score import ScoreTable
from demur.store.fingerprint_json import fingerprint_json, read_fingerprint

SCORES_FORMAT = b"demur.scores/1"
IN_TIME = b"time"
BRANCHES_FORMAT = b"demur.branches/1"

_BRANCHES = pa.schema(
    [
        ("id", pa.string()),
        ("token", pa.string()),
        ("text", pa.string()),
        ("finished", pa.bool_()),
        ("tokens", pa.int32()),
        ("verdict", pa.string()),
        ("reason", pa.string()),
        ("judge", pa.string()),
    ]
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Branch:
    """The text that follows one forced control token, and its outcome."""

    id: str  # of the example
    column: int  # of the forced control token: 0 = respond
    answer: Answer
    outcome: Outcome


@dataclass(frozen=True, kw_only=True, slots=True)
class Requests:
    """The requests behind the rows of a score file; by default each row is one, by itself."""

    # the session or group that each request came in, None where it came alone
    sessions: tuple[str | None, ...] | None = None
    counts: tuple[int, ...] | None = None  # requests that each row stands for
    in_time: bool = False  # the rows are in the order in which requests came
    # facets that requests say, such as their tenant: the value of each row, None without one
    traits: Mapping[Facet, tuple[str | None, ...]] = field(default_factory=dict)


_ALONE = Requests()


def write_scores(
    path: Path,
    table: ScoreTable,
    fingerprint: Fingerprint,
    *,
    requests: Requests = _ALONE,
) -> None:
    """Write scores atomically: id, a column per control token (its literal), leftover; fingerprint
    as metadata.

    requests: those behind the rows; what says nothing of any row gets no column.
    """
    columns: dict[str, object] = {"id": list(table.ids)}
    columns |= {token: table.logp_NC[:, c] for c, token in enumerate(fingerprint.tokens)}
    if any(name is not None for name in requests.sessions or ()):
        columns["session"] = pa.array(requests.sessions, type=pa.string())
    if any(count != 1 for count in requests.counts or ()):
        columns["count"] = pa.array(requests.counts, type=pa.int64())
    for facet, values in requests.traits.items():
        if any(value is not None for value in values):
            columns[facet] = pa.array(values, type=pa.string())
    columns["leftover"] = table.leftover_N  # for people and other programs; not read back
    meta = {
        "format": SCORES_FORMAT,
        "fingerprint": json.dumps(
            fingerprint_json(fingerprint), ensure_ascii=False, separators=(",", ":")
        ).encode(),
    }
    if requests.in_time:
        meta["order"] = IN_TIME
    _write(path, pa.table(columns).replace_schema_metadata(meta))


def read_scores(path: Path) -> tuple[ScoreTable, Fingerprint]:
    """Read scores and the fingerprint of the model that made them. Raises ArtifactError naming the
    file.
    """
    # Columns are found by the tokens of the fingerprint, whatever their order in the file.
    table = read_table(path, SCORES_FORMAT)
    raw = (table.schema.metadata or {}).get(b"fingerprint", b"")
    try:
        fingerprint = read_fingerprint(json_value(raw), "metadata")
        columns = [np.asarray(table[token], dtype=np.float32) for token in fingerprint.tokens]
        return ScoreTable(
            ids=tuple(table["id"].to_pylist()), logp_NC=np.stack(columns, axis=1)
        ), fingerprint
    except (KeyError, ValueError) as e:
        raise ArtifactError(f"{path} is damaged: {e}", "score again: demur score") from None
    except DemurError as e:
        raise ArtifactError(f"{path}: {e.message}", e.hint) from None


def read_requests(path: Path) -> Requests:
    """The requests behind the rows of a score file."""
    table = read_table(path, SCORES_FORMAT)
    found = {
        name: tuple(table[name].to_pylist())
        for name in ("session", "count", *OF_LABELS)
        if name in table.column_names
    }
    return Requests(
        sessions=found.get("session"),
        counts=found.get("count"),
        in_time=table.schema.metadata.get(b"order") == IN_TIME,
        traits={facet: found[facet] for facet in OF_LABELS if facet in found},
    )


def write_branches(
    path: Path, branches: Sequence[Branch], tokens: Sequence[str], origin: str = ""
) -> None:
    """Write branches atomically; control tokens as their literals, by score column. origin: see
    branches_origin.
    """
    rows = [
        {
            "id": b.id,
            "token": tokens[b.column],
            "text": b.answer.text,
            "finished": b.answer.finished,
            "tokens": b.answer.tokens,
            "verdict": b.outcome.verdict,
            "reason": b.outcome.reason,
            "judge": b.outcome.judge,
        }
        for b in branches
    ]
    schema = _BRANCHES.with_metadata({"format": BRANCHES_FORMAT, "origin": origin.encode()})
    _write(path, pa.Table.from_pylist(rows, schema=schema))


def branches_origin(path: Path) -> str:
    """The digest of the model and prompts that a branch file was made with. Raises ArtifactError if
    damaged.
    """
    metadata: dict[bytes, bytes] = read_table(path, BRANCHES_FORMAT).schema.metadata
    return metadata.get(b"origin", b"").decode()


def read_branches(path: Path, tokens: Sequence[str]) -> list[Branch]:
    """Read branches. Raises ArtifactError naming the file if it is damaged or has other control
    tokens.
    """
    rows = read_table(path, BRANCHES_FORMAT).to_pylist()
    column = {token: c for c, token in enumerate(tokens)}
    unknown = {r["token"] for r in rows} - set(column)
    if unknown:
        raise ArtifactError(
            f"{path} has control tokens {sorted(unknown)}, expected {list(tokens)}",
            "evaluate again",
        )
    return [
        Branch(
            id=r["id"],
            column=column[r["token"]],
            answer=Answer(text=r["text"], finished=r["finished"], tokens=r["tokens"]),
            outcome=Outcome(verdict=r["verdict"], reason=r["reason"], judge=r["judge"]),
        )
        for r in rows
    ]


def _write(path: Path, table: pa.Table) -> None:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, write_page_checksum=True)
    write_bytes(path, buffer.getvalue())


def read_table(path: Path, expected: bytes) -> pa.Table:
    """Read a parquet file of this format. Raises ArtifactError naming file and fault."""
    try:
        # Files of older versions have no checksums; their runs' receipts have digests.
        table = pq.read_table(path, page_checksum_verification=True)
    except FileNotFoundError:
        raise ArtifactError(f"{path} does not exist", "run the stage that makes it") from None
    except (OSError, pa.ArrowException) as e:
        raise ArtifactError(
            f"{path} is damaged: {str(e).splitlines()[0]}", "run its stage again"
        ) from None
    found = (table.schema.metadata or {}).get(b"format", b"none")
    if found != expected:
        raise ArtifactError(
            f"{path} has format {found.decode()}, expected {expected.decode()}",
            "run its stage again",
        )
    return table
