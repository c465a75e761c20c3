"""What a report says of the split that an engine runs."""

from __future__ import annotations

from semipd_core.partition import Partition
from semipd_core.telemetry import EngineReport


def running_split(report: EngineReport) -> Partition:
    """The granted split, since a wish is not a fact; the requested one while a lane is missing and grants nothing."""
    prefill, decode = report.granted if min(report.granted) > 0 else report.requested
    return Partition(prefill_percent=prefill, decode_percent=decode)
