"""Live scores: a folder of score files of served requests for `demur watch`, with ids and no text.

1. A request puts its row into a queue, and never waits: a row that finds it full is lost.
2. A thread takes rows out and writes a file of ROWS rows, or of those there are after OPEN_S.
3. Beyond MOST_FILES the oldest files are removed. Lost rows are counted.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic

import numpy as np

from demur.base.arrays import Floats
from demur.base.errors import DemurError
from demur.core.fingerprint import Fingerprint
from demur.core.score import ScoreTable
from demur.server.monitoring.log import log_event
from demur.store.scores.tables import Requests, write_scores

ROWS = 256  # of a file
OPEN_S = 60.0  # after its first row, after which a file with fewer rows is written
MOST_FILES = 4096  # about a million requests
MOST_WAITING = 16_384  # rows in the queue
END_S = 5.0  # for which the end of the server waits for the last file


# request id, score, key of the session, tenant
_Row = tuple[str, Floats, str | None, str | None]


class LiveScores:
    """Writes the scores of requests into files of a folder.

    fingerprint: of the model that scores. lost: called with a number of lost rows, from any thread.
    """

    def __init__(self, folder: Path, fingerprint: Fingerprint, lost: Callable[[int], None]) -> None:
        self._folder, self._fingerprint, self._lost = folder, fingerprint, lost
        self._queue: queue.Queue[_Row | None] = queue.Queue(MOST_WAITING)
        self._thread = threading.Thread(target=self._work, name="demur-live-scores", daemon=True)
        self._thread.start()

    def record(
        self,
        request_id: str,
        logp_C: Floats,
        session: str | None = None,
        tenant: str | None = None,
    ) -> None:
        """Queue the score that a request was decided on. logp_C: natural-log probabilities.

        session: key of the request's session.
        """
        try:
            self._queue.put_nowait((request_id, logp_C, session, tenant))
        except queue.Full:
            self._lost(1)

    def close(self) -> None:
        """Write the rows that are left. Blocks for up to 2 END_S seconds: use a thread."""
        try:
            self._queue.put(None, timeout=END_S)
        except queue.Full:
            return
        self._thread.join(END_S)

    def _work(self) -> None:
        """Gather rows and write files until None comes: the body of the thread."""
        rows: list[_Row] = []
        since_s = monotonic()
        ended = False
        while not ended:
            # an open file waits for its time at most, an empty one for ever
            timeout = max(0.01, since_s + OPEN_S - monotonic()) if rows else None
            try:
                row = self._queue.get(timeout=timeout)
                ended = row is None
                if row is not None:
                    since_s = since_s if rows else monotonic()
                    rows.append(row)
            except queue.Empty:
                pass  # the file has been open for long enough
            if rows and (ended or len(rows) >= ROWS or monotonic() - since_s >= OPEN_S):
                self._write(rows)
                rows = []

    def _write(self, rows: list[_Row]) -> None:
        """Write one file, and remove the oldest beyond MOST_FILES: names sort by time."""
        now = datetime.now(UTC)
        path = self._folder / f"live-{now:%Y%m%dT%H%M%S}-{now.microsecond:06d}.parquet"
        table = ScoreTable(
            ids=tuple(row[0] for row in rows), logp_NC=np.stack([row[1] for row in rows])
        )
        sessions, tenants = tuple(row[2] for row in rows), tuple(row[3] for row in rows)
        try:
            requests = Requests(sessions=sessions, in_time=True, traits={"tenant": tenants})
            write_scores(path, table, self._fingerprint, requests=requests)
            for old in sorted(self._folder.glob("live-*.parquet"))[:-MOST_FILES]:
                old.unlink(missing_ok=True)
        except (DemurError, OSError) as e:
            self._lost(len(rows))
            reason = e.message if isinstance(e, DemurError) else str(e.strerror or e)
            log_event(logging.ERROR, "live scores not written", reason=reason, rows=len(rows))
