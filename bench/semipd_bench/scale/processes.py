"""What a process has used, as Linux counts it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    cpu_s: float  # user and system, since the process started
    rss_mb: float
    peak_rss_mb: float


def read_usage(pid: int) -> Usage:
    """Raises: OSError if the process is gone."""
    directory = Path("/proc") / str(pid)
    return parse_usage((directory / "stat").read_text(), (directory / "status").read_text())


def parse_usage(stat: str, status: str) -> Usage:
    """Of `/proc/PID/stat` and `/proc/PID/status`. Source: proc(5)."""
    after_name = stat.rpartition(")")[2].split()
    user, system = int(after_name[11]), int(after_name[12])
    kilobytes = {
        name: int(value.split()[0])
        for name, _, value in (line.partition(":") for line in status.splitlines())
        if name in ("VmRSS", "VmHWM")
    }
    return Usage(
        cpu_s=(user + system) / _TICKS_PER_S,
        rss_mb=kilobytes["VmRSS"] / 1000,
        peak_rss_mb=kilobytes["VmHWM"] / 1000,
    )
