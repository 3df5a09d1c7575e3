"""Labels of a judge that costs money, in one sqlite file: written as they come, so that a killed run pays once."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from demur.core.errors import ArtifactError
from demur.core.rates import Outcome

FORMAT = 1  # PRAGMA user_version

_TABLE = """CREATE TABLE IF NOT EXISTS labels (
  key TEXT PRIMARY KEY, judge TEXT NOT NULL, verdict TEXT NOT NULL, reason TEXT NOT NULL, score REAL,
  served_by TEXT NOT NULL
) WITHOUT ROWID"""
_BY_JUDGE = "CREATE INDEX IF NOT EXISTS by_judge ON labels (judge)"


class LabelFile:
    """Implements demur.core.judging.LabelStore. Raises ArtifactError if the file is damaged or of another format."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            found = int(self._db.execute("PRAGMA user_version").fetchone()[0])
            self._db.execute("PRAGMA journal_mode=WAL")  # each label is safe at once, and a reader never waits
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute(_TABLE)
            self._db.execute(_BY_JUDGE)
            self._db.execute(f"PRAGMA user_version={FORMAT}")
        except (sqlite3.Error, OSError) as e:
            raise ArtifactError(f"{path} is no label file: {e}", "delete it to ask again, or name another") from None
        if found not in (0, FORMAT):
            raise ArtifactError(f"{path} has label format {found}, expected {FORMAT}", "name another file")

    def get(self, key: str) -> Outcome | None:
        """See core.judging.LabelStore."""
        row = self._db.execute("SELECT verdict, reason, judge, score FROM labels WHERE key = ?", (key,)).fetchone()
        return None if row is None else Outcome(verdict=row[0], reason=row[1], judge=row[2], score=row[3])

    def put(self, key: str, outcome: Outcome, served_by: str) -> None:
        """See core.judging.LabelStore. Unscored outcomes do not belong here: they are asked about again."""
        values = (key, outcome.judge, outcome.verdict, outcome.reason, outcome.score, served_by)
        try:
            self._db.execute("INSERT OR REPLACE INTO labels VALUES (?, ?, ?, ?, ?, ?)", values)
        except sqlite3.Error as e:
            raise ArtifactError(f"cannot write {self._path}: {e}", "check space and permissions") from None

    def served_by(self, judge: str) -> str | None:
        """See core.judging.LabelStore."""
        row = self._db.execute("SELECT served_by FROM labels WHERE judge = ? LIMIT 1", (judge,)).fetchone()
        return None if row is None else str(row[0])

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()
