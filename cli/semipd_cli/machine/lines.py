"""A report for a terminal: a line per check, and below those that do not pass what to do. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from semipd_cli.machine.checks import MachineReport, Verdict

WIDTH = 6  # of a verdict


def render(report: MachineReport) -> Iterator[str]:
    for check in report.checks:
        yield f"{check.verdict.upper():<{WIDTH}}{check.name}: {check.message}"
        if check.remedy:
            yield f"{'':<{WIDTH}}-> {check.remedy}"
    counts = Counter(check.verdict for check in report.checks)
    summary = ", ".join(f"{counts[verdict]} {verdict.lower()}" for verdict in Verdict if counts[verdict])
    yield summary if report.has_gpu else f"no GPU that semipd could use ({summary})"
