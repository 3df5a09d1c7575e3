"""Replies of a chat model, in one sqlite file: written as they come, so that a killed run pays once."""

from __future__ import annotations

from pathlib import Path

from demur.core.judging import Said
from demur.store.sqlite_file import SqliteFile

FORMAT = 1  # PRAGMA user_version

_TABLE = "CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, text TEXT NOT NULL, model TEXT NOT NULL)"


class ReplyFile:
    """Texts and the model that wrote them, by key. Raises ArtifactError if the file is damaged or of another format."""

    def __init__(self, path: Path) -> None:
        self._file = SqliteFile(path, what="file of replies", version=FORMAT, tables=(_TABLE,))

    def get(self, key: str) -> Said | None:
        """The reply under a key, if there is one; without its tokens."""
        row = self._file.row("SELECT text, model FROM replies WHERE key = ?", key)
        return None if row is None else Said(text=row[0], model=row[1])

    def put(self, key: str, said: Said) -> None:
        """Keep a reply, at once."""
        self._file.write("INSERT OR REPLACE INTO replies VALUES (?, ?, ?)", key, said.text, said.model)

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()
