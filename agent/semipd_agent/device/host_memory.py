"""How much of the host's memory this pod may still take: what the kernel has, and what the pod's own limit leaves."""

from __future__ import annotations

from pathlib import Path

MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")  # of version 2, as a container sees its own


def read_free_bytes(meminfo: Path = MEMINFO, cgroup: Path = CGROUP) -> int | None:
    """None where the kernel does not tell."""
    try:
        available_bytes = _field(meminfo.read_text(), "MemAvailable:") << 10
    except (OSError, ValueError):
        return None
    return min(available_bytes, _left_by_limit(cgroup, available_bytes))


def _left_by_limit(cgroup: Path, unlimited_bytes: int) -> int:
    """Cached files do not count: the kernel drops them first."""
    try:
        limit = (cgroup / "memory.max").read_text().strip()
        if limit == "max":
            return unlimited_bytes
        used_bytes = int((cgroup / "memory.current").read_text())
        cached_bytes = _field((cgroup / "memory.stat").read_text(), "inactive_file")
    except (OSError, ValueError):
        return unlimited_bytes
    return max(0, int(limit) - used_bytes + cached_bytes)


def _field(text: str, name: str) -> int:
    """Raises: ValueError if there is no such line."""
    for line in text.splitlines():
        words = line.split()
        if len(words) > 1 and words[0] == name:
            return int(words[1])
    raise ValueError(f"no {name}")
