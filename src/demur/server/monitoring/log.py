"""Structured logs: one JSON object a line, without keys and without text of conversations.

1. `event` and `crash` make records. 2. `JsonLines` makes lines of them. 3. `LogWriter` queues the
lines, and a thread of its own writes them. A reader that stops reading, a closed pipe or a full
disk costs lines, which are counted: never an answer, and never the end of the process.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import select
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from traceback import extract_tb
from typing import Any

LOG = logging.getLogger("demur.server")

MOST_LINES = 4096  # that wait for the log's reader; one more is dropped and counted
LAST_LINES_S = 1.0  # for which the end of the process waits until the queue is written
_POLL_S = 0.2  # between two looks at a descriptor that takes nothing now


def log_event(level: int, name: str, **fields: Any) -> None:
    """Log an event of the server with its fields."""
    LOG.log(level, name, extra={"fields": fields})


def log_crash(error: BaseException, **fields: Any) -> None:
    """Log a bug by its type and the frames it passed through.

    Its message is left out: it may quote text of a request.
    """
    frames = [f"{f.filename}:{f.lineno} {f.name}" for f in extract_tb(error.__traceback__)]
    log_event(logging.ERROR, "crash", error=type(error).__name__, frames=frames[-12:], **fields)


class JsonLines(logging.Formatter):
    """Formats this package's events, and other libraries' records by their text alone."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as a line of JSON; of an exception it has the type, not the message."""
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


class LogWriter(logging.Handler):
    """Writes lines to a file descriptor from a thread; no caller ever waits for it.

    descriptor: written to directly, past Python's buffers, which would be flushed (and waited for)
    at exit. dropped: called with the number of lines that were lost, from any thread. A line that
    could not be written is lost; the next one is tried again, so that a disk with room again, or a
    pipe with a new reader, has a log again.
    """

    def __init__(self, descriptor: int, dropped: Callable[[int], None]) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._dropped = dropped
        self._lines: queue.Queue[bytes | None] = queue.Queue(MOST_LINES)
        self._lost = 0  # lines dropped since the last line about them
        self._is_whole = True  # the last line that was begun was written to its end
        self._thread = threading.Thread(target=self._write_all, name="demur-log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a record's line, or count it as dropped."""
        try:
            line = self.format(record).encode("utf-8", "backslashreplace") + b"\n"
        except (ValueError, TypeError, KeyError):  # a record whose arguments do not fit its text
            self._drop()
            return
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self._drop()

    def close(self) -> None:
        """Write what waits, for LAST_LINES_S at most."""
        try:
            self._lines.put(None, timeout=LAST_LINES_S)
            self._thread.join(LAST_LINES_S)
        except queue.Full:
            pass  # nobody reads: the thread is a daemon and ends with the process
        super().close()

    def _drop(self) -> None:
        self._lost += 1
        self._dropped(1)

    def _write_all(self) -> None:
        """Write lines until None comes: the body of the thread."""
        while (line := self._lines.get()) is not None:
            if self._lost and self._is_whole:
                lost, self._lost = self._lost, 0
                line = _lines_lost(lost) + line
            if not self._is_written(line):
                self._drop()

    def _is_written(self, line: bytes) -> bool:
        """Write a line, waiting for the reader if need be; return whether it was written."""
        # a line that a failure cut off gets its end first
        rest = line if self._is_whole else b"\n" + line
        try:
            while rest:
                try:
                    rest = rest[os.write(self._descriptor, rest) :]
                    self._is_whole = not rest
                # a process that shares the descriptor has made it non-blocking
                except BlockingIOError:
                    select.select([], [self._descriptor], [], _POLL_S)
        except OSError:  # the descriptor is closed, its disk is full, or its reader has ended
            return False
        return True


def _lines_lost(lines: int) -> bytes:
    """Return a log line about so many lines that were dropped before it."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    fields = {
        "time": now,
        "level": "warning",
        "logger": LOG.name,
        "event": "log lines dropped",
        "lines": lines,
    }
    return json.dumps(fields).encode() + b"\n"
