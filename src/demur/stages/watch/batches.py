"""Files of live scores, as `demur watch` takes them: each one batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from demur.base.arrays import numbered
from demur.base.errors import DataError
from demur.base.files import digest_file
from demur.core.policy import Policy
from demur.core.score import ScoreTable
from demur.stages.watch.state import session_key
from demur.stats.drift.sessions import units_of_sessions
from demur.stats.units import RowUnits
from demur.store.scores.tables import read_requests, read_scores

MOST_OF_FILE = 100_000_000  # of a score file: each is looked at


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """One file of scores, its rows in the order in which they are tested."""

    table: ScoreTable
    digest: str
    in_time: bool  # else the order is random
    session_N: tuple[str | None, ...]  # of each row: the key of its session
    # the row of each request, in the order in which they are tested: a row may stand for several
    row_T: tuple[int, ...]


def score_files(path: Path) -> list[Path]:
    """The score files of a path. Raises DataError on a folder that holds none."""
    if not path.is_dir():
        return [path]
    files = sorted(path.glob("*.parquet"))
    if not files:
        raise DataError(
            f"{path} holds no score file", "expected files named *.parquet, as a server writes them"
        )
    return files


def read_batch(path: Path, policy: Policy, seed: int, *, in_order: bool) -> Batch:
    """One file of scores. Rows without an order in time are permuted: a sorted file would look like
    drift. Raises PolicyError on scores of another model, DataError on too many requests.
    """
    table, model = read_scores(path)
    policy.require_model(model)
    requests, digest, rows = read_requests(path), digest_file(path), len(table.ids)
    in_time = in_order or requests.in_time
    sessions, counts = requests.sessions or (None,) * rows, requests.counts or (1,) * rows
    order_N = np.arange(rows)
    # Seeded by the file's own digest: the same order whenever and beside whichever files.
    rng = np.random.default_rng([seed, int(digest.removeprefix("sha256:")[:16], 16)])
    if not in_time:
        order_N = rng.permutation(rows)
    if (total := sum(counts)) > MOST_OF_FILE:
        raise DataError(
            f"{path} stands for {total:,} requests",
            f"cut it into files of {MOST_OF_FILE:,} at most",
        )
    row_T = np.repeat(np.arange(rows), np.array(counts, dtype=np.int64)[order_N])
    if not in_time and len(row_T) > rows:
        row_T = rng.permutation(row_T)  # the requests of one row do not come one after the other
    named = (sessions[n] for n in order_N.tolist())
    return Batch(
        table=table.select(tuple(table.ids[n] for n in order_N.tolist())),
        digest=digest,
        in_time=in_time,
        session_N=tuple(s if s is None else session_key("", s) for s in named),
        row_T=tuple(row_T.tolist()),
    )


def units_of_batches(batches: Sequence[Batch]) -> RowUnits:
    """The units of all rows, and the requests that each stands for."""
    sessions = [s for b in batches for s in b.session_N]
    counts = [np.bincount(b.row_T, minlength=len(b.session_N)) for b in batches]
    return RowUnits(
        group_N=numbered(units_of_sessions(sessions)),
        count_N=np.concatenate(counts).astype(np.int64),
    )


def together(batches: Sequence[Batch]) -> ScoreTable:
    """All rows. Raises DataError on a request that stands in two files."""
    ids = tuple(i for b in batches for i in b.table.ids)
    if len(set(ids)) < len(ids):
        twice = Counter(ids).most_common(1)[0][0]
        raise DataError(
            f"request {twice!r} stands in two score files",
            "cut traffic into files that do not overlap",
        )
    return ScoreTable(ids=ids, logp_NC=np.concatenate([b.table.logp_NC for b in batches]))
