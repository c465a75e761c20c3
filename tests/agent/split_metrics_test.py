"""The agent exposes how busy lanes are, and how often steps had which split, where they have one of their own."""

from __future__ import annotations

from types import SimpleNamespace

import msgspec
from prometheus_client import CollectorRegistry

from semipd_agent.http.metrics import AgentCollector
from semipd_core.partition import Role
from semipd_core.telemetry import CoordinatorReport, EngineReport, LaneReport, SplitUse


class SplitsAlone(AgentCollector):
    def collect(self):
        return self._splits()


class LaneTimesAlone(AgentCollector):
    def collect(self):
        return self._lane_times()


def registry_of(report, collector=SplitsAlone) -> CollectorRegistry:
    observer = SimpleNamespace(report=report, supervisor=SimpleNamespace(engine_id="engine-0"))
    registry = CollectorRegistry()
    registry.register(collector(SimpleNamespace(observers={"engine-0": observer})))
    return registry


def report_with(*splits: SplitUse, lanes: tuple[LaneReport, ...] = ()) -> EngineReport:
    coordinator = CoordinatorReport(
        waiting=0, prefilling=0, decoding=0, kv_blocks_total=1, kv_blocks_used=0, kv_blocks_cached=0, block_tokens=16,
        waiting_tokens=0, oldest_wait_ms=0, preemptions=0, prefix_hit_tokens=0, lane_restarts=0,
        splits=list(splits), lanes=list(lanes),
    )  # fmt: skip
    return EngineReport(
        engine_id="engine-0", at_s=0.0, phase="Steady", requested=(60, 40), granted=(60, 40), front_end=None,
        coordinator=coordinator,
    )  # fmt: skip


def test_steps_and_seconds_are_told_by_split_and_role():
    registry = registry_of(
        report_with(
            SplitUse(role=Role.DECODE, prefill_percent=60, decode_percent=39, steps=7, busy_us=1_500_000),
            SplitUse(role=Role.DECODE, prefill_percent=30, decode_percent=70, steps=2, busy_us=400_000),
        )
    )
    labels = {"engine": "engine-0", "role": "decode", "prefill_percent": "60", "decode_percent": "39"}
    assert registry.get_sample_value("semipd_agent_split_steps_total", labels) == 7
    assert registry.get_sample_value("semipd_agent_split_busy_seconds_total", labels) == 1.5
    other = labels | {"prefill_percent": "30", "decode_percent": "70"}
    assert registry.get_sample_value("semipd_agent_split_steps_total", other) == 2


def test_an_engine_that_does_not_report_or_has_no_such_steps_has_no_sample():
    for report in (None, report_with()):
        families = list(registry_of(report).collect())
        assert [family.name for family in families] == [
            "semipd_agent_split_steps", "semipd_agent_split_busy_seconds",
        ]  # fmt: skip
        assert not any(family.samples for family in families)


def test_the_time_of_each_role_is_told_once_though_lanes_stand_by():
    active = LaneReport(
        lane_id="decode-1", role=Role.DECODE, pid=1, active=True, requested_percent=40, granted_percent=40, batch=0,
        steps=3, tokens=3, busy_us=2_500_000, compute_us=2_000_000,
    )  # fmt: skip
    warm = msgspec.structs.replace(active, lane_id="decode-2", active=False)
    registry = registry_of(report_with(lanes=(warm, active)), LaneTimesAlone)
    labels = {"engine": "engine-0", "role": "decode"}
    assert registry.get_sample_value("semipd_agent_lane_busy_seconds_total", labels) == 2.5
    assert registry.get_sample_value("semipd_agent_lane_compute_seconds_total", labels) == 2.0
    for report in (None, report_with()):
        assert not any(family.samples for family in registry_of(report, LaneTimesAlone).collect())
