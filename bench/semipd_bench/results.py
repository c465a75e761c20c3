"""Raw results, appended: one JSON line per run with what is needed to read it years later."""

from __future__ import annotations

import datetime as dt
import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from semipd_bench.verdict import Condition
from semipd_core.errors import SemipdError


class ResultsNotWritten(SemipdError):
    """The disk refused a result."""


def append_result(
    directory: Path, benchmark: str, numbers: Mapping[str, Any], conditions: Sequence[Condition]
) -> Path:
    """Append to `directory/BENCHMARK.jsonl`.

    Raises: ResultsNotWritten.
    """
    record = {
        "benchmark": benchmark,
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "command": ["semipd", *sys.argv[1:]],
        "cpu": read_cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "system": platform.platform(),
        "numbers": numbers,
        "conditions": [{"name": c.name, "holds": c.holds, "found": c.found} for c in conditions],
    }
    path = directory / f"{benchmark}.jsonl"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
    except OSError as error:
        raise ResultsNotWritten(f"{path} is not written: {error.strerror or error}") from error
    return path


def read_cpu_name() -> str:
    """As Linux calls it; what Python knows elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
