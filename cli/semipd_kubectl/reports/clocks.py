"""Figures of pods whose clocks disagree, on one clock."""

from __future__ import annotations

import dataclasses

from msgspec.structs import replace

from semipd_core.telemetry import EngineReport
from semipd_kubectl.observe.objects import PodWindow


def by_clock(window: PodWindow, now_s: float) -> PodWindow:
    """As if the pod's clock had said `now_s` when it answered: clocks of nodes may disagree by more than a report may be old."""
    ahead_s = 0 if window.date_s is None else round(window.date_s - now_s)
    if ahead_s == 0:
        return window
    return dataclasses.replace(window, reports=tuple(_earlier(report, ahead_s) for report in window.reports))


def _earlier(report: EngineReport, seconds: int) -> EngineReport:
    front_end = report.front_end
    if front_end is not None:
        slots = [replace(slot, start_s=slot.start_s - seconds) for slot in front_end.slots]
        front_end = replace(front_end, at_s=front_end.at_s - seconds, slots=slots)
    return replace(report, at_s=report.at_s - seconds, front_end=front_end)
