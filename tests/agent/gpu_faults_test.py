"""Faults of the GPU and of what runs on it, as who is called at night sees them: status, condition, metric, log."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gpu_agent import GpuAgent

from semipd_agent.device.facts import Inventory
from semipd_agent.device.xid import ReactionKind
from semipd_agent.fault_table import FAULTS, REACTIONS, markdown_table, xid_table
from semipd_agent.faults import DEVICE_FIELD, FaultReason
from semipd_agent.kubernetes.partition_object import build_status
from semipd_core.api.conditions import find_condition
from semipd_core.api.partition import PodPartitionStatus
from semipd_core.partition import Isolation

DOCUMENT = Path(__file__).parents[2] / "docs" / "gpu-faults.md"
NOW = "2026-11-21T12:00:00Z"
WITHOUT_MPS = {"PATH": "/usr/bin:/bin"}


def test_every_fault_has_its_row_in_the_order_of_gravity() -> None:
    assert list(FAULTS) == list(FaultReason)


def test_the_document_holds_the_tables() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert markdown_table() in text
    assert xid_table() in text


def test_every_reaction_to_an_xid_is_described() -> None:
    assert list(REACTIONS) == list(ReactionKind)


@pytest.fixture
def agent(start_gpu_agent: Callable[..., GpuAgent]) -> GpuAgent:
    started = start_gpu_agent({"gpm": [50.0, 25.0, 75.0]})
    started.until_steady()
    started.until(lambda: started.faults() == {}, "no fault")
    return started


def degraded(agent: GpuAgent) -> tuple[str, str]:
    """Status and reason of the partition's `Degraded`."""
    none = Inventory(kind="CUDA", units=[])
    found = build_status(
        agent.process.status(), none, generation=1, refusal=None, old=PodPartitionStatus(), now=NOW
    )
    condition = find_condition(found.conditions, "Degraded")
    assert condition is not None
    return condition.status.value, condition.reason


def until_told(agent: GpuAgent, reason: FaultReason) -> None:
    """In the status, the condition, the metric and the log at once."""
    gauge = f'semipd_agent_fault{{reason="{reason}"}}'
    agent.until(lambda: next(iter(agent.faults()), None) == reason, reason)
    agent.until(lambda: degraded(agent) == ("True", reason) and agent.metric(gauge) == 1, reason)


def until_over(agent: GpuAgent) -> None:
    agent.until_steady()
    agent.until(lambda: degraded(agent) == ("False", "Healthy"), "no fault")
    agent.until(lambda: agent.process.get("/readyz").status_code == 200, "ready")


def refused(path: str, given: str) -> dict[str, Any]:
    return {"memory_error": {"path": path, "given": given, "allowed": "another"}}


BEFORE_THE_START = [
    pytest.param({"nvml": {"noDriver": True}}, FaultReason.NO_DRIVER, "NoDriver", id="no driver"),
    pytest.param({"environment": WITHOUT_MPS}, FaultReason.NO_MPS_BINARY, "Refused", id="no MPS binary"),
    pytest.param(
        refused("spec.resources.kvCache", "90000000000 bytes"),
        FaultReason.TOO_LITTLE_MEMORY,
        "Failed",
        id="too little memory",
    ),
    pytest.param(
        refused(DEVICE_FIELD, "Tesla T4 (GPU-1) of compute capability 7.5"),
        FaultReason.UNSUPPORTED_GPU,
        "Failed",
        id="unsupported compute capability",
    ),
    pytest.param(
        refused(DEVICE_FIELD, "CUDA with a driver for CUDA 12.2"),
        FaultReason.WRONG_CUDA,
        "Failed",
        id="wrong CUDA version",
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize(("settings", "reason", "logged"), BEFORE_THE_START)
def test_a_fault_before_the_start_is_told_and_nothing_is_started_in_a_loop(
    start_gpu_agent: Callable[..., GpuAgent], settings: dict[str, Any], reason: FaultReason, logged: str
) -> None:
    agent = start_gpu_agent(**settings)
    until_told(agent, reason)
    assert logged in agent.logged()
    assert agent.lanes() == set()
    assert agent.process.get("/readyz").status_code == 503
    assert agent.metric('semipd_agent_process_restarts_total{process="engine-0/memory"}') == 0


@pytest.mark.slow
def test_a_driver_that_comes_late_is_used(start_gpu_agent: Callable[..., GpuAgent]) -> None:
    agent = start_gpu_agent({"noDriver": True})
    until_told(agent, FaultReason.NO_DRIVER)
    assert "memory" not in agent.process.pids()
    agent.nvml()
    until_over(agent)


@pytest.mark.slow
def test_a_gpu_lost_mid_run_ends_what_used_it_and_holds_restarts_until_it_is_back(agent: GpuAgent) -> None:
    restarts = 'semipd_agent_process_restarts_total{process="engine-0/memory"}'
    agent.nvml(lost=True)
    until_told(agent, FaultReason.GPU_LOST)
    assert agent.process.get("/readyz").status_code == 503
    agent.until(lambda: set(agent.process.pids()) == {"frontend"}, "all that used the GPU has ended")
    assert agent.metric('semipd_agent_gpu_state{state="Lost"}') == 1
    assert agent.metric(restarts) == 0
    assert "gpu state" in agent.logged()
    agent.nvml()
    until_over(agent)
    assert agent.metric(restarts) == 1


@pytest.mark.slow
def test_an_agent_that_starts_while_one_of_its_gpus_is_missing_waits_for_that_one(
    start_gpu_agent: Callable[..., GpuAgent],
) -> None:
    gpus = ["GPU-1", "GPU-2"]
    agent = start_gpu_agent({"gpus": gpus}, partition={"engines": 2, "isolation": Isolation.NONE})
    agent.until(lambda: agent.process.get("/readyz").status_code == 200, "ready")
    agent.process.kill()
    agent.nvml(gpus=gpus[1:])
    agent.process.start()
    agent.until(lambda: "GPU-1" in agent.faults().get(FaultReason.GPU_LOST, ""), "GPU-1 is lost")
    agent.nvml(gpus=gpus)
    agent.until(lambda: agent.faults() == {} and agent.process.get("/readyz").status_code == 200, "ready")
    told = [agent.process.directory / f"engine-{number}" / "engine.json" for number in range(2)]
    assert [json.loads(path.read_text())["gpu"] for path in told] == gpus


@pytest.mark.slow
def test_an_unknown_xid_keeps_new_requests_and_switches_away_and_ends_nothing(agent: GpuAgent) -> None:
    before = agent.process.pids()
    agent.nvml(xids=[250])
    until_told(agent, FaultReason.GPU_UNHEALTHY)
    assert agent.process.get("/readyz").status_code == 503
    assert agent.metric('semipd_agent_gpu_xids_total{UUID="GPU-1",xid="250"}') == 1
    assert agent.process.wish(40).status_code == 200
    assert (agent.process.pids(), agent.process.granted()) == (before, (80, 100))
    assert "Xid 250" in agent.logged()


@pytest.mark.slow
def test_an_xid_of_a_lane_replaces_the_lanes_once(agent: GpuAgent) -> None:
    before, memory = agent.lanes(), agent.process.pids()["memory"]
    agent.nvml(xids=[31, 45])
    agent.until(lambda: len(agent.lanes()) == 2 and not agent.lanes() & before, "both lanes are replaced")
    until_over(agent)
    assert agent.process.pids()["memory"] == memory
    assert agent.metric('semipd_agent_gpu_xids_total{UUID="GPU-1",xid="45"}') == 1
    assert agent.logged().count("RestartLanes") == 1


@pytest.mark.slow
def test_a_contained_memory_error_replaces_memory_server_and_lanes(agent: GpuAgent) -> None:
    before, memory = agent.lanes(), agent.process.pids()["memory"]
    agent.nvml(xids=[94])
    agent.until(lambda: agent.process.pids().get("memory", memory) != memory, "a new memory server")
    until_over(agent)
    assert not agent.lanes() & before


@pytest.mark.slow
def test_a_lane_killed_with_work_in_flight_is_counted_and_replaced(agent: GpuAgent) -> None:
    killed = agent.process.pids()["prefill"]
    os.kill(killed, signal.SIGKILL)
    agent.until(
        lambda: agent.metric('semipd_agent_lane_losses_total{engine="engine-0",role="prefill"}') == 1, "told"
    )
    agent.until(lambda: agent.process.pids().get("prefill", killed) != killed, "a new lane")
    until_over(agent)
    assert "lane exited" in agent.logged()
    assert "Recovering" in agent.logged()


@pytest.mark.slow
def test_a_fault_of_the_mps_server_is_told_while_it_lasts(start_gpu_agent: Callable[..., GpuAgent]) -> None:
    agent = start_gpu_agent(lanes_ignore_sigterm=True)  # it lasts until they are killed
    agent.until_steady()
    (agent.pipes / "fault").touch()
    until_told(agent, FaultReason.MPS_FAULT)
    until_over(agent)
    assert agent.metric("semipd_agent_mps_faults_total") == 1


@pytest.mark.slow
def test_what_the_gpu_does_is_in_the_metrics(agent: GpuAgent) -> None:
    agent.nvml(gpm=[50.0, 25.0, 75.0], throttle=0x4, usedBytes=7)
    agent.until(lambda: agent.metric('semipd_agent_gpu_memory_used_bytes{UUID="GPU-1"}') == 7, "a new look")
    assert agent.metric('semipd_agent_gpu_sm_active_percent{UUID="GPU-1"}') == 50
    assert agent.metric('semipd_agent_gpu_tensor_active_percent{UUID="GPU-1"}') == 25
    assert agent.metric('semipd_agent_gpu_dram_bandwidth_percent{UUID="GPU-1"}') == 75
    assert agent.metric('semipd_agent_gpu_throttled{UUID="GPU-1",reason="SwPowerCap"}') == 1
    assert agent.metric('semipd_agent_gpu_state{state="Healthy"}') == 1
