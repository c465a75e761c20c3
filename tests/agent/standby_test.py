"""Lanes kept warm, over real processes: going back to a share costs a swap, and nothing is ever left behind."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from agent_process import AgentProcess, agent_config
from gpu_agent import GpuAgent

from semipd_agent.processes.identity import read_identity
from semipd_core.agent_config import StandbySettings

pytestmark = pytest.mark.slow

ON = StandbySettings(lanes_max=2)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentProcess]:
    running = AgentProcess(tmp_path_factory.mktemp("run"), standby=ON)
    running.start()
    yield running
    running.clear_away()


@pytest.fixture
def agent(running: AgentProcess) -> AgentProcess:
    """At (60, 100), with a lane at (80, 100) standing by."""
    running.until_ready()
    for percent in (80, 60):
        running.wish(percent)
        running.until_steady(percent)
    assert set(running.standbys()) == {("prefill", 80)}
    return running


def metric(agent: AgentProcess, name: str) -> float:
    lines = agent.get("/metrics").content.decode().splitlines()
    return next(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


def shown(agent: AgentProcess) -> set[int]:
    status = agent.status()
    return {process.pid for process in [*status.shared, *status.engines[0].processes]}


def test_going_back_to_a_share_uses_the_lane_that_had_it(agent: AgentProcess) -> None:
    names = [
        'semipd_agent_switch_lanes_total{engine="engine-0",role="prefill",start="Warm"}',
        'semipd_agent_switch_lanes_total{engine="engine-0",role="prefill",start="Cold"}',
        'semipd_agent_switch_seconds_count{engine="engine-0",form="Warm"}',
    ]
    before = [metric(agent, name) for name in names]
    at_60, (at_80,) = agent.pids()["prefill"], agent.standbys().values()
    agent.wish(80)
    agent.until_steady(80)
    assert agent.pids()["prefill"] == at_80, "the warm lane"
    assert agent.standbys() == {("prefill", 60): at_60}, "and the other stands by now"
    assert agent.status().switches[-1].form == "Warm"
    assert [metric(agent, name) - was for name, was in zip(names, before, strict=True)] == [1, 0, 1]
    assert metric(agent, 'semipd_agent_standby_lanes{engine="engine-0",role="prefill"}') == 1
    assert shown(agent) == set(agent.living())


def test_a_warm_lane_that_is_killed_is_forgotten_and_the_others_live(agent: AgentProcess) -> None:
    before, (at_80,) = agent.pids(), agent.standbys().values()
    os.kill(at_80, signal.SIGKILL)
    agent.until(lambda: not agent.standbys(), "the loss is noticed")
    assert (agent.pids(), agent.engine().phase) == (before, "Steady")
    trace = agent.directory / "engine-0" / "trace.json"

    def is_confirmed() -> bool:
        told = json.loads(trace.read_text(encoding="utf-8"))
        return bool(told["lost"]) and set(told["lost"]) <= set(told["confirmed"])

    agent.until(is_confirmed, "the coordinator heard of the exit")
    agent.wish(80)
    agent.until_steady(80)
    assert agent.status().switches[-1].form == "Cold"


def test_the_next_agent_adopts_warm_lanes(agent: AgentProcess) -> None:
    before = agent.standbys()
    agent.kill()
    agent.start()
    agent.until_steady(60)
    assert agent.standbys() == before
    agent.wish(80)
    agent.until_steady(80)
    assert agent.status().switches[-1].form == "Warm"
    assert shown(agent) == set(agent.living())


def test_the_next_agent_ends_warm_lanes_that_it_may_not_keep(agent: AgentProcess) -> None:
    (at_80,) = agent.standbys().values()
    agent.kill()
    (agent.directory / "service.json").write_bytes(msgspec.json.encode(agent_config()))
    agent.start()
    agent.until_steady(60)
    agent.until(lambda: read_identity(at_80) is None, "it has ended")
    assert agent.standbys() == {}
    assert shown(agent) == set(agent.living())


def test_an_agent_that_dies_in_the_middle_of_a_warm_switch_leaves_no_stray(
    start_agent: Callable[..., AgentProcess], tmp_path: Path
) -> None:
    place = "agent.switch.swap_sent"
    once = tmp_path / "once"
    once.mkdir()
    environment = {"SEMIPD_FAILPOINTS": f"{place}=2", "SEMIPD_FAILPOINT_ONCE": str(once)}
    agent = start_agent(None, environment, standby=ON)
    agent.until_steady(80)
    agent.wish(60)
    agent.until_steady(60)
    agent.wish(80)

    def is_granted() -> bool:
        agent.keep_alive()
        return agent.engine().phase == "Steady" and agent.granted() == (80, 100)

    agent.until(is_granted, "the wish comes true")
    assert (once / place).exists(), "the place was not reached"
    assert shown(agent) == set(agent.living())
    assert agent.terminate() == 0
    agent.assert_nothing_left()


def test_on_a_gpu_warm_lanes_end_when_its_memory_runs_short_and_with_a_fault_of_the_mps_server(
    start_gpu_agent: Callable[..., GpuAgent],
) -> None:
    agent = start_gpu_agent(standby=ON)
    agent.until_steady(80)
    agent.process.wish(60)
    agent.until_steady(60)
    assert set(agent.process.standbys()) == {("prefill", 80)}
    before = agent.process.pids()
    agent.nvml(usedBytes=(139 << 30) - (1 << 20))
    agent.until(lambda: not agent.process.standbys(), "the warm lane ended")
    assert agent.process.pids() == before
    agent.nvml()
    agent.until(
        lambda: agent.metric("semipd_agent_gpu_memory_used_bytes") == 20 << 30, "the GPU has room again"
    )
    agent.process.wish(80)
    agent.until_steady(80)
    clients = {*agent.lanes(), *agent.process.standbys().values()}
    assert len(clients) == 3
    (agent.pipes / "fault").touch()
    agent.until(lambda: not any(map(read_identity, clients)), "every client has ended")
    agent.until_steady(80)
    assert agent.process.standbys() == {}
