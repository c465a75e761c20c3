"""The agent on an NVIDIA GPU with isolation MPS, over fake NVML, fake lanes and the fake control binary."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from gpu_agent import DEADLINE_S, GpuAgent
from mps_daemon import REAL_VARIABLE, living_servers, real_command

from semipd_agent.mps import processes
from semipd_agent.processes.identity import read_identity

pytestmark = pytest.mark.slow


@pytest.fixture
def agent(start_gpu_agent: Callable[..., GpuAgent]) -> GpuAgent:
    started = start_gpu_agent()
    started.process.until_steady(80)
    return started


def test_lanes_are_clients_of_the_pods_own_daemon_and_a_drain_leaves_none_of_it(agent: GpuAgent) -> None:
    prefill = agent.environment(agent.process.pids()["prefill"])
    assert prefill["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] == "80"
    assert prefill["CUDA_MPS_PIPE_DIRECTORY"] == str(agent.pipes)
    assert prefill["CUDA_DEVICE_MAX_CONNECTIONS"] == "2"
    memory = Path(f"/proc/{agent.process.pids()['memory']}/environ").read_text().split("\0")
    assert (
        f"CUDA_MPS_PIPE_DIRECTORY={agent.process.directory}/mps/none" in memory
    )  # no client: it outlives a fault
    agent.until(lambda: agent.metric("semipd_agent_mps_clients") == 2, "both lanes are clients")
    assert agent.metric('semipd_agent_mps_state{state="Active"}') == 1
    assert agent.process.status().problems == []
    assert len(living_servers(agent.pipes)) == 1
    agent.process.terminate(DEADLINE_S)
    agent.process.assert_nothing_left()
    found = processes.find(str(agent.pipes))
    assert (found.daemons, found.servers) == ((), ())


def test_a_switch_brings_a_new_client_with_the_new_share(agent: GpuAgent) -> None:
    assert agent.process.wish(40).status_code == 200
    agent.process.until_steady(40)
    new = agent.environment(agent.process.pids()["prefill"])
    assert new["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] == "40"


def test_after_a_fault_every_lane_ends_before_new_ones_start(agent: GpuAgent) -> None:
    before = agent.lanes()
    (server,) = living_servers(agent.pipes)
    (agent.pipes / "fault").touch()
    agent.until(lambda: len(agent.lanes()) == 2 and not agent.lanes() & before, "both lanes are replaced")
    agent.process.until_steady(80)
    agent.until(lambda: agent.process.status().problems == [], "the fault is over")
    assert agent.metric("semipd_agent_mps_faults_total") == 1
    assert living_servers(agent.pipes) == {server}


def test_a_lane_that_does_not_end_is_taken_off_the_gpu_before_it_is_killed(
    start_gpu_agent: Callable[..., GpuAgent],
) -> None:
    agent = start_gpu_agent(lanes_ignore_sigterm=True)
    agent.process.until_steady(80)
    before = agent.lanes()
    (agent.pipes / "fault").touch()
    agent.until(lambda: not any(map(read_identity, before)), "the lanes are killed")
    assert before <= {int(path.name) for path in (agent.pipes / "terminated").iterdir()}


def test_a_lost_daemon_takes_lanes_and_server_with_it_and_all_come_back(agent: GpuAgent) -> None:
    before, (server,) = agent.lanes(), living_servers(agent.pipes)
    daemon = agent.daemon
    assert daemon is not None
    os.kill(daemon, signal.SIGKILL)
    agent.until(lambda: agent.daemon not in (None, daemon), "a new daemon")
    agent.until(lambda: len(agent.lanes()) == 2 and not agent.lanes() & before, "both lanes are replaced")
    agent.process.until_steady(80)
    assert server not in living_servers(agent.pipes)


def test_the_next_agent_adopts_the_daemon_and_its_clients(agent: GpuAgent) -> None:
    before = agent.daemon, agent.lanes(), living_servers(agent.pipes)
    agent.process.kill()
    agent.process.start()
    agent.process.until_ready()
    agent.process.until_steady(80)
    agent.until(lambda: agent.metric('semipd_agent_mps_state{state="Active"}') == 1, "MPS is active")
    assert (agent.daemon, agent.lanes(), living_servers(agent.pipes)) == before


@pytest.mark.parametrize(
    ("facts", "problem"),
    [
        pytest.param({"computeMode": 3}, "WrongComputeMode: GPU-1", id="another compute mode"),
        pytest.param({"mpsPids": [7]}, "ForeignServer: GPU-1", id="another MPS server"),
    ],
)
def test_a_gpu_that_others_manage_is_refused_until_it_is_free(
    start_gpu_agent: Callable[..., GpuAgent], facts: dict[str, object], problem: str
) -> None:
    agent = start_gpu_agent(nvml=facts)
    agent.until_problem(f"MPS Refused: {problem}")
    assert agent.lanes() == set()
    assert agent.metric('semipd_agent_mps_state{state="Refused"}') == 1
    agent.nvml()
    agent.process.until_steady(80)
    agent.until(lambda: agent.process.status().problems == [], "no problem")


def test_a_missing_binary_is_said(start_gpu_agent: Callable[..., GpuAgent]) -> None:
    agent = start_gpu_agent(environment={"PATH": "/usr/bin:/bin"})
    agent.until_problem("MPS Refused: NoBinary: PATH: got no nvidia-cuda-mps-server")
    assert agent.lanes() == set()


def test_a_server_that_never_gets_ready_is_given_up_with_the_daemons_own_words(
    start_gpu_agent: Callable[..., GpuAgent],
) -> None:
    agent = start_gpu_agent(environment={"FAKE_MPS_SERVER": "exits"})
    agent.until_problem("MPS GivenUp: the server ended 5 times in a row before it was ready")
    agent.until_problem("exited with status 1")
    assert agent.lanes() == set()


def test_a_reply_that_cannot_be_read_is_told_and_ends_nothing(agent: GpuAgent) -> None:
    before = agent.lanes()
    script = agent.pipes / "script.new"
    script.write_text(json.dumps({"replies": {"get_server_list": "26836 ACTIVE\n"}}))
    script.rename(agent.pipes / "script.json")
    agent.until_problem("sent 'get_server_list', got '26836 ACTIVE', allowed: one PID a line")
    (agent.pipes / "script.json").unlink()
    agent.until(lambda: agent.process.status().problems == [], "it is understood again")
    assert agent.lanes() == before


def test_lanes_that_run_without_mps_serve_and_are_told_of(start_gpu_agent: Callable[..., GpuAgent]) -> None:
    agent = start_gpu_agent(lanes_bypass_mps=True)
    agent.process.until_steady(80)
    agent.until_problem("runs without MPS: no server has it as a client")
    assert agent.process.get("/readyz").status_code == 200


def test_the_real_control_binary_is_started_and_ended_with_a_server_that_never_becomes_ready(
    start_gpu_agent: Callable[..., GpuAgent],
) -> None:
    real = real_command()
    if real is None:
        pytest.skip(f"no nvidia-cuda-mps-control on PATH, nor in {REAL_VARIABLE}")
    agent = start_gpu_agent(environment={"TEST_MPS_CONTROL": real[0]})
    agent.until(lambda: living_servers(agent.pipes), "the daemon has started a server")
    agent.until(lambda: agent.metric('semipd_agent_mps_state{state="Starting"}') == 1, "it initializes")
    assert agent.lanes() == set()
    (server,) = living_servers(agent.pipes)
    os.kill(server, signal.SIGKILL)
    agent.until(lambda: living_servers(agent.pipes) - {server}, "the next server")
    agent.process.terminate(DEADLINE_S)
    agent.process.assert_nothing_left()
    found = processes.find(str(agent.pipes))
    assert (found.daemons, found.servers) == ((), ())
