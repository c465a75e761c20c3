"""The agent exposes how often steps had which split, where they have one of their own."""

from __future__ import annotations

from types import SimpleNamespace

from prometheus_client import CollectorRegistry

from semipd_agent.http.metrics import AgentCollector
from semipd_core.partition import Role
from semipd_core.telemetry import CoordinatorReport, EngineReport, SplitUse


class SplitsAlone(AgentCollector):
    def collect(self):
        return self._splits()


def registry_of(report) -> CollectorRegistry:
    observer = SimpleNamespace(report=report, supervisor=SimpleNamespace(engine_id="engine-0"))
    registry = CollectorRegistry()
    registry.register(SplitsAlone(SimpleNamespace(observers={"engine-0": observer})))
    return registry


def report_with(*splits: SplitUse) -> EngineReport:
    coordinator = CoordinatorReport(
        waiting=0, prefilling=0, decoding=0, kv_blocks_total=1, kv_blocks_used=0, kv_blocks_cached=0, block_tokens=16,
        waiting_tokens=0, oldest_wait_ms=0, preemptions=0, prefix_hit_tokens=0, lane_restarts=0, splits=list(splits),
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
