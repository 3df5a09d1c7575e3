"""One sqlite file for replies or labels that cost money: each is written as it comes, so that a
killed run pays once.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from demur.base.errors import ArtifactError


class SqliteFile:
    """One sqlite file of a stated format. Raises ArtifactError if it is damaged or of another
    format.

    what: the name of such a file in errors ("label file"). tables: CREATE statements, of tables and
    indexes that may be there.
    """

    def __init__(self, path: Path, *, what: str, version: int, tables: Sequence[str]) -> None:
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # isolation_level=None: every statement is a transaction of its own
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            found = int(self._db.execute("PRAGMA user_version").fetchone()[0])
            if found in (0, version):
                # each row is safe at once, and a reader never waits
                self._db.execute("PRAGMA journal_mode=WAL")
                self._db.execute("PRAGMA synchronous=NORMAL")
                for table in tables:
                    self._db.execute(table)
                self._db.execute(f"PRAGMA user_version={version}")
        except (sqlite3.Error, OSError) as e:
            raise ArtifactError(
                f"{path} is no {what}: {e}", "delete it to ask again, or name another"
            ) from None
        if found not in (0, version):
            self._db.close()
            raise ArtifactError(
                f"{path} is a {what} of format {found}, expected {version}", "name another file"
            )

    def row(self, query: str, *values: Any) -> tuple[Any, ...] | None:
        """The first row of a query."""
        found: tuple[Any, ...] | None = self._db.execute(query, values).fetchone()
        return found

    def write(self, statement: str, *values: Any) -> None:
        """Write, at once. Raises ArtifactError if that fails."""
        try:
            self._db.execute(statement, values)
        except sqlite3.Error as e:
            raise ArtifactError(
                f"cannot write {self._path}: {e}", "check space and permissions"
            ) from None

    def close(self) -> None:
        """Close the file."""
        self._db.close()
