"""Replies of a chat model, in one sqlite file: written as they come, so that a killed run pays
once.
"""

from __future__ import annotations

from pathlib import Path

from demur.core.conversation.thoughts import answer_of
from demur.core.judging.judge import ChatAnswer, Declined
from demur.store.answers.sqlite_file import SqliteFile

FORMAT = 1  # PRAGMA user_version

# Files from before declines were told apart have the first table only; the second is made when they
# are opened.
_TABLES = (
    "CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, text TEXT NOT NULL, model TEXT NOT "
    "NULL)",
    "CREATE TABLE IF NOT EXISTS declines (key TEXT PRIMARY KEY, reason TEXT NOT NULL, text TEXT "
    "NOT NULL, model TEXT)",
)
_PRINTED_PARTS = "[{'type':"  # a list of parts as older versions kept it: thought and answer in one


class ReplyFile:
    """Texts and declines by key. Raises ArtifactError if the file is damaged or of another
    format.
    """

    def __init__(self, path: Path) -> None:
        self._file = SqliteFile(path, what="file of replies", version=FORMAT, tables=_TABLES)

    def get(self, key: str) -> ChatAnswer | Declined | None:
        """The reply under a key, if there is one; without its tokens. Replies that an older version
        misread are left out, and so asked for again.
        """
        row = self._file.row("SELECT text, model FROM replies WHERE key = ?", key)
        if row is not None:
            misread = row[0].startswith(_PRINTED_PARTS)
            return None if misread else ChatAnswer(text=answer_of(row[0]), model=row[1])
        row = self._file.row("SELECT reason, text, model FROM declines WHERE key = ?", key)
        return None if row is None else Declined(reason=row[0], text=row[1], model=row[2])

    def put(self, key: str, reply: ChatAnswer | Declined) -> None:
        """Store a reply at once, in place of an earlier one."""
        if isinstance(reply, Declined):
            # `get` looks into replies first: an older reply would hide this decline
            self._file.write("DELETE FROM replies WHERE key = ?", key)
            self._file.write(
                "INSERT OR REPLACE INTO declines VALUES (?, ?, ?, ?)",
                key,
                reply.reason,
                reply.text,
                reply.model,
            )
        else:
            self._file.write(
                "INSERT OR REPLACE INTO replies VALUES (?, ?, ?)", key, reply.text, reply.model
            )

    def close(self) -> None:
        """Close the file."""
        self._file.close()
