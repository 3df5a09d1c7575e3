"""Reading text files: UTF-8 with or without a byte-order mark, UTF-16 and UTF-32 with one; and what
is made of short texts.
"""

from __future__ import annotations

import codecs
import hashlib
from pathlib import Path

from demur.base.errors import DemurError

# UTF-32's little-endian mark begins with UTF-16's, so it is looked for first.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_BEGINNING = 64  # bytes in which a NUL tells UTF-16 without a mark: JSON and CSV begin with ASCII


def read_text(path: Path, error: type[DemurError], encoding: str | None = None) -> str:
    """Read a text file; see decoded. Raises `error` naming the path if it is missing, unreadable or
    no text.
    """
    return decoded(read_bytes(path, error), path, error, encoding)


def read_bytes(path: Path, error: type[DemurError], most: int = -1) -> bytes:
    """Read a file, or its first `most` bytes.

    Raises `error` naming the path, or the folder that is missing above it.
    """
    try:
        with path.open("rb") as file:
            return file.read(most)
    except FileNotFoundError:
        missing = path if path.parent.is_dir() else path.parent
        hint = "check the path, or run the stage that makes it"
        raise error(f"{missing} does not exist", hint) from None
    except OSError as e:
        raise error(f"cannot read {path}: {e.strerror or e}", "expected a readable file") from None


def decoded(data: bytes, path: Path, error: type[DemurError], encoding: str | None = None) -> str:
    """Decode a file's bytes by the byte-order mark, else as `encoding`, else as UTF-8. The mark is
    left out.

    Raises `error` naming the line of the first byte that does not fit, and how to convert the file.
    """
    mark, by_mark = next(((m, e) for m, e in _MARKS if data.startswith(m)), (b"", None))
    asked = by_mark or encoding or "utf-8"
    if not by_mark and not encoding and b"\0" in data[:_BEGINNING]:
        what = "binary data, or UTF-16 without a byte-order mark"
        hint = f"save it as UTF-8, or convert it: iconv -f utf-16 -t utf-8 {path.name}"
        raise error(f"cannot read {path}: it holds {what}", hint)
    try:
        return data[len(mark) :].decode(asked)
    except UnicodeDecodeError as e:
        line = data.count(b"\n", 0, len(mark) + e.start) + 1
        what = f"byte 0x{e.object[e.start]:02x} in line {line} is no {asked.upper()}"
        hint = (
            f"save it as UTF-8, or convert it: iconv -f cp1252 -t utf-8 {path.name}; "
            'in a run\'s TOML: encoding = "cp1252" in its source'
        )
        raise error(f"cannot read {path}: {what}", hint) from None


def duration(seconds: float) -> str:
    """Seconds as "m:ss"."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def uniform_of(text: str) -> float:
    """A number in [0, 1) that depends on the text alone: the first 56 bits of its sha256."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:7], "big") / 2**56
