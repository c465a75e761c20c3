"""`pin` and `unpin` in a line, and how far a pin has come."""

from __future__ import annotations

from semipd_kubectl.reports.pin import PinReport


def pinned_sentence(report: PinReport) -> str:
    name = f"{report.namespace}/{report.name}"
    if report.pinned is None:
        if report.previous is None:
            return f"{name} was not pinned"
        return f"{name}: no longer pinned to {report.previous}, the loop goes on from there"
    before = f" (was {report.previous})" if report.previous not in (None, str(report.pinned)) else ""
    return f"{name}: pinned to {report.pinned}{before}"


def progress_sentence(report: PinReport) -> str:
    if not report.pods:
        return "no pods: nothing to wait for"
    done = len(report.pods) - len(report.waiting)
    said = f"{done} of {len(report.pods)} pods have been granted {report.pinned}"
    waiting = [
        f"{pod.name} has {', '.join('nothing yet' if each is None else str(each) for each in pod.granted) or 'not reported'}"
        for pod in report.waiting[:3]
    ]
    more = f" and {len(report.waiting) - 3} more" if len(report.waiting) > 3 else ""
    return said + (f"; {', '.join(waiting)}{more}" if waiting else "")
