"""`doctor`: a line per check, and below those that do not pass what to do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from rich.text import Text

from semipd_kubectl.draw.lines import BAD, BOLD, DIM, GOOD, WARN, Indented, toned
from semipd_kubectl.reports.doctor.findings import Verdict
from semipd_kubectl.reports.doctor.report import DoctorReport

TONES = {Verdict.PASS: GOOD, Verdict.WARN: WARN, Verdict.FAIL: BAD, Verdict.UNKNOWN: DIM}


def draw_doctor(report: DoctorReport) -> Iterator[Text | Indented]:
    for check in report.checks:
        verdict = Verdict(check.verdict)
        line = toned(f"{verdict.upper():<8}", TONES[verdict]).append(check.name, style=f"default {BOLD}")
        line.append(f": {check.message}", style="default not bold")
        yield Indented(line, indent=0, hanging=8)
        if check.remedy:
            yield Indented(toned(f"-> {check.remedy}"), indent=8)
    counts = Counter(check.verdict for check in report.checks)
    parts = [f"{counts[verdict.value]} {verdict.lower()}" for verdict in Verdict if counts[verdict.value]]
    yield toned(", ".join(parts), GOOD if report.healthy else BAD)
