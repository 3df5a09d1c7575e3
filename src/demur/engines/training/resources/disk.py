"""Errors of a full disk: the libraries that write checkpoints raise four, demur one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from demur.base.errors import ArtifactError

# safetensors and tokenizers put the system's error into their message; torch names its writer only.
_SYSTEM = "os error "
_TORCH = ("PytorchStreamWriter", "inline_container")


@contextmanager
def disk_errors_named(folder: Path) -> Iterator[None]:
    """Within the block, turn errors of writing into an ArtifactError that names the folder."""
    try:
        yield
    except OSError as e:
        raise _refused(folder, e.strerror or str(e)) from None
    except SafetensorError as e:
        if _SYSTEM not in str(e):
            raise
        raise _refused(folder, str(e).splitlines()[0]) from None
    except RuntimeError as e:
        if not any(words in str(e) for words in _TORCH):
            raise
        raise _refused(folder, "the disk is full, or the file too large") from None
    except Exception as e:
        # tokenizers raises plain Exception
        if type(e) is not Exception or _SYSTEM not in str(e):
            raise
        raise _refused(folder, str(e)) from None


def _refused(folder: Path, why: str) -> ArtifactError:
    """The error of a disk that takes no more."""
    return ArtifactError(
        f"cannot write below {folder}: {why}",
        "free some space, then run the same command: it goes on from the last whole checkpoint",
    )
