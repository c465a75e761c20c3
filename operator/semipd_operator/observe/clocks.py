"""Nodes whose clocks disagree with ours: what pods report is moved to our time, or it would be stale or of the future."""

from __future__ import annotations

from email.utils import parsedate_to_datetime

from msgspec.structs import replace

from semipd_core.telemetry import SLOT_SECONDS, EngineReport

TOLERATED_S = 2.0  # a Date is of whole seconds


def find_lag_s(date: str | None, asked_s: float, answered_s: float) -> int:
    """By how many seconds the clock of who wrote the header `date` is behind ours (unix time), in whole slots.

    0 where the date may lie between the question and the answer, which a busy machine reads late, or where it says nothing.
    """
    try:
        date_s = parsedate_to_datetime(date or "").timestamp()
    except (ValueError, OverflowError):
        return 0
    lag_s = max(asked_s - date_s, 0.0) - max(date_s - answered_s, 0.0)
    return round(lag_s / SLOT_SECONDS) * SLOT_SECONDS if abs(lag_s) > TOLERATED_S else 0


def moved(report: EngineReport, by_s: int) -> EngineReport:
    """As a clock would have it that is `by_s` further: a multiple of SLOT_SECONDS."""
    front_end = report.front_end
    if front_end is not None:
        slots = [replace(slot, start_s=slot.start_s + by_s) for slot in front_end.slots]
        front_end = replace(front_end, at_s=front_end.at_s + by_s, slots=slots)
    return replace(report, at_s=report.at_s + by_s, front_end=front_end)
