"""`doctor`: a line per check, and below those that do not pass what to do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from rich.text import Text

from semipd_kubectl.draw.lines import BAD, BOLD, DIM, GOOD, WARN, Indented, toned
from semipd_kubectl.reports.doctor.findings import Verdict
from semipd_kubectl.reports.doctor.report import DoctorReport

TONES = {Verdict.PASS: GOOD, Verdict.WARN: WARN, Verdict.FAIL: BAD, Verdict.UNKNOWN: DIM}

WIDTH = 8  # of a verdict


def draw_doctor(report: DoctorReport) -> Iterator[Text | Indented]:
    for check in report.checks:
        verdict = Verdict(check.verdict)
        line = toned(check.name, BOLD).append(f": {check.message}", style="not bold")
        label = toned(f"{verdict.upper():<{WIDTH}}", TONES[verdict])
        yield Indented(line, indent=WIDTH, hanging=0, label=label)
        if check.remedy:
            yield Indented(toned(f"-> {check.remedy}"), indent=WIDTH, hanging=3)
    counts = Counter(check.verdict for check in report.checks)
    parts = [f"{counts[verdict.value]} {verdict.lower()}" for verdict in Verdict if counts[verdict.value]]
    yield toned(", ".join(parts), GOOD if report.healthy else BAD)
