"""Labels of a judge that costs money, in one sqlite file: written as they come, so that a killed
run pays once.
"""

from __future__ import annotations

from pathlib import Path

from demur.core.judging.outcome import Outcome
from demur.store.answers.sqlite_file import SqliteFile

FORMAT = 1  # PRAGMA user_version

_TABLE = """CREATE TABLE IF NOT EXISTS labels (
  key TEXT PRIMARY KEY, judge TEXT NOT NULL, verdict TEXT NOT NULL, reason TEXT NOT NULL, score \
REAL,
  served_by TEXT NOT NULL
) WITHOUT ROWID"""
_BY_JUDGE = "CREATE INDEX IF NOT EXISTS by_judge ON labels (judge)"


class LabelFile:
    """Implements demur.core.judging.judge.LabelStore.

    Raises ArtifactError if the file is damaged or of another format.
    """

    def __init__(self, path: Path) -> None:
        self._file = SqliteFile(path, what="label file", version=FORMAT, tables=(_TABLE, _BY_JUDGE))

    def get(self, key: str) -> Outcome | None:
        """The outcome under a key, if there is one."""
        row = self._file.row("SELECT verdict, reason, judge, score FROM labels WHERE key = ?", key)
        return (
            None
            if row is None
            else Outcome(verdict=row[0], reason=row[1], judge=row[2], score=row[3])
        )

    def put(self, key: str, outcome: Outcome, served_by: str) -> None:
        """Store an outcome at once. Unscored outcomes do not belong here: they are judged again."""
        values = (key, outcome.judge, outcome.verdict, outcome.reason, outcome.score, served_by)
        self._file.write("INSERT OR REPLACE INTO labels VALUES (?, ?, ?, ?, ?, ?)", *values)

    def served_by(self, judge: str) -> str | None:
        """The model behind the endpoint that gave this judge's labels; None without labels."""
        row = self._file.row("SELECT served_by FROM labels WHERE judge = ? LIMIT 1", judge)
        return None if row is None else str(row[0])

    def close(self) -> None:
        """Close the file."""
        self._file.close()
