"""The agent with isolation Auto on an NVIDIA GPU, over fakes: for each refusal of MPS, what is in force instead."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
from gpu_agent import DEADLINE_S, GpuAgent

from semipd_agent.mps import processes
from semipd_core.partition import Isolation

pytestmark = pytest.mark.slow
AUTO = {"isolation": Isolation.MPS, "fallbacks": ("GreenContext", "None")}
WITHOUT_SERVER = {"PATH": "/usr/bin:/bin"}


@pytest.mark.parametrize(
    ("nvml", "environment", "isolation", "reason", "split"),
    [
        pytest.param({}, {}, "MPS", "ProbePassed", (80, 100), id="MPS"),
        pytest.param({}, WITHOUT_SERVER, "GreenContext", "NoMpsBinary", (40, 60), id="no binary"),
        pytest.param({"mpsPids": [7]}, {}, "GreenContext", "MpsRefused", (40, 60), id="a foreign server"),
        pytest.param(
            {}, {"FAKE_MPS_SERVER": "exits"}, "GreenContext", "MpsGivenUp", (40, 60), id="no server starts"
        ),
        pytest.param(
            {"cudaDriver": 12020}, WITHOUT_SERVER, "None", "NoMpsBinary", (100, 100), id="an old driver too"
        ),
    ],
)
def test_it_serves_with_what_can_be_had_and_says_so(
    start_gpu_agent: Callable[..., GpuAgent],
    nvml: dict[str, object],
    environment: Mapping[str, str],
    isolation: str,
    reason: str,
    split: tuple[int, int],
) -> None:
    agent = start_gpu_agent(nvml, dict(environment), AUTO)
    agent.until_steady(*split)
    status = agent.process.status()
    assert status.isolation is not None
    assert (status.isolation.isolation, status.isolation.reason) == (isolation, reason)
    assert [engine.isolation for engine in status.engines] == [isolation]
    assert (status.problems, status.faults) == ([], [])
    assert agent.metric(f'semipd_agent_isolation{{isolation="{isolation}",reason="{reason}"}}') == 1
    pids = agent.process.pids()
    assert (pids["prefill"] == pids["decode"]) is (isolation == "GreenContext")
    assert (agent.daemon is not None) is (isolation == "MPS")
    pipes = agent.environment(pids["prefill"])["CUDA_MPS_PIPE_DIRECTORY"]
    assert (pipes == str(agent.pipes)) is (isolation == "MPS"), "nobody becomes a client of another's server"
    found = processes.find(str(agent.pipes))
    assert (len(found.daemons), len(found.servers)) == ((1, 1) if isolation == "MPS" else (0, 0))


@pytest.mark.parametrize("facts", [{"computeMode": 3}, {"noDriver": True}])
def test_where_nothing_can_run_it_waits_for_mps_and_says_what_is_wrong(
    start_gpu_agent: Callable[..., GpuAgent], facts: dict[str, object]
) -> None:
    agent = start_gpu_agent(facts, None, AUTO)
    agent.until_problem("MPS Refused: ")
    assert agent.lanes() == set()
    agent.nvml()
    agent.until_steady(80)


def test_the_next_agent_keeps_to_the_choice_and_to_the_split(
    start_gpu_agent: Callable[..., GpuAgent],
) -> None:
    agent = start_gpu_agent({"mpsPids": [7]}, None, AUTO)
    agent.until_steady(40, 60)
    assert agent.process.wish(30, 70).status_code == 200
    agent.until_steady(30, 70)
    agent.process.kill()
    agent.nvml()  # MPS would be had now
    agent.process.start()
    agent.until_steady(30, 70)
    status = agent.process.status()
    assert status.isolation is not None
    assert (status.isolation.isolation, status.isolation.reason) == ("GreenContext", "MpsRefused")
    assert len(agent.lanes()) == 1, "one process for both roles"
    assert agent.daemon is None


def test_the_next_agent_adopts_the_daemon_that_the_probe_started(
    start_gpu_agent: Callable[..., GpuAgent],
) -> None:
    agent = start_gpu_agent({}, None, AUTO)
    agent.until_steady(80)
    before = agent.daemon
    assert before is not None
    agent.process.kill()
    agent.nvml(mpsPids=[7])  # it would be refused now
    agent.process.start()
    agent.until_steady(80)
    assert agent.daemon == before


def test_a_wish_that_only_mps_could_run_is_followed_as_far_as_green_contexts_can(
    start_gpu_agent: Callable[..., GpuAgent],
) -> None:
    agent = start_gpu_agent({}, dict(WITHOUT_SERVER), AUTO)
    agent.until_steady(40, 60)
    assert agent.process.wish(60, 100).status_code == 200
    agent.until_steady(40, 60)
    assert agent.process.wish(20, 100).status_code == 200
    agent.until_steady(20, 80)
    wish = agent.process.status().wish
    assert wish is not None
    assert wish.decision_id == "wish-20-100"
    assert agent.process.engine().requested == agent.process.engine().granted


def test_without_shares_every_wish_is_the_whole_device(start_gpu_agent: Callable[..., GpuAgent]) -> None:
    agent = start_gpu_agent({"cudaDriver": 12020}, dict(WITHOUT_SERVER), AUTO)
    agent.until_steady(100, 100)
    assert agent.process.wish(60, 100).status_code == 200
    assert agent.process.granted() == (100, 100)
    assert agent.process.wish(60, 100, pinned=True).status_code == 409


def test_a_drain_leaves_nothing_of_the_probe(start_gpu_agent: Callable[..., GpuAgent]) -> None:
    agent = start_gpu_agent({}, None, AUTO)
    agent.until_steady(80)
    agent.process.terminate(DEADLINE_S)
    agent.process.assert_nothing_left()
    found = processes.find(str(agent.pipes))
    assert (found.daemons, found.servers) == ((), ())
