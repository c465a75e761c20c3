"""What the agents of the services here say of the GPU: the Xids that they have heard, and how busy their lanes are. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from semipd_core.telemetry import EngineReport, LaneReport

XIDS = "semipd_agent_gpu_xids"  # a counter of the agent, with these labels
UUID, NUMBER = "UUID", "xid"


class XidCount(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    uuid: str  # "" where the driver does not say which GPU
    xid: int
    count: int


class LaneActivity(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """`busy_percent`: of the time, with a step in flight; None where one report of the engine is all there is."""

    engine_id: str
    lane_id: str
    granted_percent: int
    busy_percent: float | None


class ServiceFacts(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """`problem`: why its agent says nothing. `xids`: since it began."""

    service: str
    problem: str | None = None
    xids: list[XidCount] = msgspec.field(default_factory=list)
    lanes: list[LaneActivity] = msgspec.field(default_factory=list)


def read_xids(metrics: str) -> list[XidCount]:
    """From an agent's metrics in Prometheus' text format."""
    return [
        XidCount(uuid=sample.labels[UUID], xid=int(sample.labels[NUMBER]), count=round(sample.value))
        for family in text_string_to_metric_families(metrics)
        if family.name == XIDS
        for sample in family.samples
        if sample.name == f"{XIDS}_total"
    ]


def activity(before: Sequence[EngineReport], after: Sequence[EngineReport]) -> list[LaneActivity]:
    """Of the lanes in use, between two looks at the windows of one agent."""
    return [
        LaneActivity(
            engine_id=report.engine_id,
            lane_id=lane.lane_id,
            granted_percent=lane.granted_percent,
            busy_percent=_busy_percent(before, report, lane),
        )
        for report in after
        for lane in _active(report)
    ]


def _busy_percent(before: Sequence[EngineReport], report: EngineReport, lane: LaneReport) -> float | None:
    """A counter that went back was begun anew, with its coordinator."""
    for old in before:
        if old.engine_id != report.engine_id or old.at_s >= report.at_s:
            continue
        for was in _active(old):
            if was.role is lane.role and was.busy_us <= lane.busy_us:
                busy = (lane.busy_us - was.busy_us) / 1e6 / (report.at_s - old.at_s)
                return round(min(100.0, 100 * busy), 1)
    return None


def _active(report: EngineReport) -> Iterator[LaneReport]:
    coordinator = report.coordinator
    yield from (lane for lane in coordinator.lanes if lane.active) if coordinator is not None else ()
