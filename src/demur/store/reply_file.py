"""Replies of a chat model, in one sqlite file: written as they come, so that a killed run pays once."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from demur.core.errors import ArtifactError
from demur.core.judging import Said

FORMAT = 1  # PRAGMA user_version

_TABLE = "CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, text TEXT NOT NULL, model TEXT NOT NULL)"


class ReplyFile:
    """Texts and the model that wrote them, by key. Raises ArtifactError if the file is damaged or of another format."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            found = int(self._db.execute("PRAGMA user_version").fetchone()[0])
            self._db.execute("PRAGMA journal_mode=WAL")  # each reply is safe at once
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute(_TABLE)
            self._db.execute(f"PRAGMA user_version={FORMAT}")
        except (sqlite3.Error, OSError) as e:
            raise ArtifactError(f"{path} is no file of replies: {e}", "delete it to ask again") from None
        if found not in (0, FORMAT):
            raise ArtifactError(f"{path} has reply format {found}, expected {FORMAT}", "move it away to ask again")

    def get(self, key: str) -> Said | None:
        """The reply under a key, if there is one; without its tokens."""
        row = self._db.execute("SELECT text, model FROM replies WHERE key = ?", (key,)).fetchone()
        return None if row is None else Said(text=row[0], model=row[1])

    def put(self, key: str, said: Said) -> None:
        """Keep a reply, at once."""
        try:
            self._db.execute("INSERT OR REPLACE INTO replies VALUES (?, ?, ?)", (key, said.text, said.model))
        except sqlite3.Error as e:
            raise ArtifactError(f"cannot write {self._path}: {e}", "check space and permissions") from None

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()
