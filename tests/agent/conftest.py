"""Agent processes over fake engine programs, started, asked, killed and cleared away by the test."""

from __future__ import annotations

import fcntl
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "fakes"))

from agent_process import NO_STANDBYS, AgentProcess, subreaper
from gpu_agent import GpuAgent

from semipd_core.agent_config import StandbySettings


@pytest.fixture(scope="module", autouse=True)
def _orphans_come_here() -> Iterator[None]:
    """For these tests alone: elsewhere an orphan of ours would look like something left behind."""
    with subreaper():
        yield


@pytest.fixture
def start_agent(tmp_path: Path) -> Iterator[Callable[..., AgentProcess]]:
    """`start_agent(faults, environment, engines=…, **partition settings)`: once per test."""
    agents: list[AgentProcess] = []

    def start(*arguments: object, **settings: object) -> AgentProcess:
        agents.append(AgentProcess(tmp_path, *arguments, **settings))  # type: ignore[arg-type]
        agents[-1].start()
        return agents[-1]

    yield start
    for agent in agents:
        agent.clear_away()


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentProcess]:
    """One engine, ready; the cases of a module share it and leave it steady."""
    running = AgentProcess(tmp_path_factory.mktemp("run"))
    running.start()
    running.until_ready()
    yield running
    running.clear_away()


@pytest.fixture
def no_other_mps() -> Iterator[None]:
    """One test at a time has MPS servers: agents see those of all tests on the machine, and theirs are foreign."""
    with (Path(tempfile.gettempdir()) / "semipd-tests-mps.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture
def start_gpu_agent(no_other_mps: None, tmp_path: Path) -> Iterator[Callable[..., GpuAgent]]:
    agents: list[GpuAgent] = []

    def start(
        nvml: dict[str, object] | None = None,
        environment: dict[str, str] | None = None,
        partition: dict[str, object] | None = None,
        standby: StandbySettings = NO_STANDBYS,
        **faults: object,
    ) -> GpuAgent:
        settings = {"standby": standby, **(partition or {})}
        agents.append(GpuAgent(tmp_path / "run", nvml or {}, faults, environment or {}, **settings))
        agents[-1].process.start()
        return agents[-1]

    yield start
    for agent in agents:
        agent.clear_away()
