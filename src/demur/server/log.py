"""Structured logs: one JSON object a line. Never a key, never what was said."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from traceback import extract_tb
from typing import Any

LOG = logging.getLogger("demur.server")


def event(level: int, name: str, **fields: Any) -> None:
    """Log that something happened."""
    LOG.log(level, name, extra={"fields": fields})


def crash(error: BaseException, **fields: Any) -> None:
    """Log a bug by where it happened. Its message may quote what was said, so it is left out."""
    frames = [f"{f.filename}:{f.lineno} {f.name}" for f in extract_tb(error.__traceback__)]
    event(logging.ERROR, "crash", error=type(error).__name__, frames=frames[-12:], **fields)


class JsonLines(logging.Formatter):
    """Formats this package's events, and other libraries' records by their text alone."""

    def format(self, record: logging.LogRecord) -> str:
        """One line. A record's traceback gives its exception's type, not its message."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[0]:
            line["error"] = record.exc_info[0].__name__
        return json.dumps(line, ensure_ascii=False, default=str)
