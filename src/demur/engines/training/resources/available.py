"""What this machine has left: memory within its limits, and disk. Units: bytes."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

_CGROUPS = Path("/sys/fs/cgroup")
_VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes")


def free_memory(proc: Path = Path("/proc"), cgroups: Path = _CGROUPS) -> float | None:
    """Bytes that a training may still take; of the GPU where there is one. None where the system
    does not tell.

    The least of what the system has available and what each enclosing control group may still take.
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
    """Bytes that may still be written below a folder that exists."""
    return float(shutil.disk_usage(folder).free)


def _left_in_groups(proc: Path, cgroups: Path) -> list[float]:
    """What this process's control group, and those around it, may still take (version 2, then
    version 1).
    """
    try:
        named = (proc / "self" / "cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    left = []
    for line in named:
        _, kinds, path = line.split(":", 2)
        if kinds not in ("", "memory"):
            continue
        root = cgroups if kinds == "" else cgroups / "memory"
        limit, used = ("memory.max", "memory.current") if kinds == "" else _VERSION_1
        group = root / path.lstrip("/")
        for folder in (group, *group.parents):
            if folder == root.parent:
                break
            found = _left(folder, limit, used)
            if found is not None:
                left.append(found)
    return left


def _left(group: Path, limit: str, used: str) -> float | None:
    """Limit less use, files that the system may drop given back; None where there is no limit."""
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
