"""Free memory, within the limits of control groups, and free disk. Units: bytes."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

_CGROUPS = Path("/sys/fs/cgroup")
_VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes")


def free_memory(proc: Path = Path("/proc"), cgroups: Path = _CGROUPS) -> float | None:
    """Bytes of memory that a training may still take; of the GPU if there is one.

    The least of the system's available memory and of what each enclosing control group leaves. None
    if the system does not tell. proc, cgroups: for tests.
    """
    if torch.cuda.is_available():
        return float(torch.cuda.mem_get_info()[0])
    try:
        lines = (proc / "meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    left = [1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    left += _left_in_groups(proc, cgroups)
    return min(left) if left else None


def free_disk(folder: Path) -> float:
    """Bytes that may still be written below an existing folder."""
    return float(shutil.disk_usage(folder).free)


def _left_in_groups(proc: Path, cgroups: Path) -> list[float]:
    """Bytes that this process's control group and those around it leave, for each with a limit."""
    try:
        named = (proc / "self" / "cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    left = []
    for line in named:
        # "id:kinds:path"; version 2 has no kinds, version 1 a hierarchy for each
        _, kinds, path = line.split(":", 2)
        if kinds not in ("", "memory"):
            continue
        root = cgroups if kinds == "" else cgroups / "memory"
        limit, used = ("memory.max", "memory.current") if kinds == "" else _VERSION_1
        group = root / path.lstrip("/")
        for folder in (group, *group.parents):
            if folder == root.parent:  # above the root of all groups
                break
            found = _left(folder, limit, used)
            if found is not None:
                left.append(found)
    return left


def _left(group: Path, limit: str, used: str) -> float | None:
    """Limit minus use of a control group, plus its cached files; None without a limit.

    The system drops cached files (inactive_file) when memory is needed.
    """
    try:
        most = (group / limit).read_text(encoding="ascii").strip()
        now = int((group / used).read_text(encoding="ascii"))
        facts = dict(
            line.split()
            for line in (group / "memory.stat").read_text(encoding="ascii").splitlines()
        )
    except (OSError, ValueError):
        return None
    if most == "max":
        return None
    return float(int(most) - now + int(facts.get("inactive_file", 0)))
