"""The init's decisions: what follows an exit, which phase is reached, which processes are a service's."""

from __future__ import annotations

from pathlib import Path

import pytest

from semipd_cli.down import is_for
from semipd_cli.init.agent_keeper import AfterExit, after_exit
from semipd_cli.init.progress import StartClock, StartPhase, reached
from semipd_cli.set_partition import progress_of
from semipd_cli.up import service_url
from semipd_core.agent_config import (
    AgentStatus,
    EngineStatus,
    PartitionWire,
    ProcessStatus,
    SwitchStatus,
    WishWire,
)
from semipd_core.partition import Isolation

SPLIT = PartitionWire(prefill_percent=80, decode_percent=100)
OTHER = PartitionWire(prefill_percent=60, decode_percent=100)
WISH = WishWire(target=OTHER, decision_id="manual-1", pinned=True)
LANE = ProcessStatus(role="prefill", pid=7, requested_percent=80, granted_percent=80)
MEMORY = ProcessStatus(role="memory", pid=6)


@pytest.mark.parametrize(
    ("exit_code", "silent_deaths", "step"),
    [
        pytest.param(0, 1, AfterExit.FINISHED, id="it was told to stop"),
        pytest.param(2, 1, AfterExit.REFUSED, id="its input is wrong"),
        pytest.param(-9, 1, AfterExit.RESTART, id="it was killed"),
        pytest.param(1, 4, AfterExit.RESTART, id="it fails for the fourth time"),
        pytest.param(1, 5, AfterExit.GIVE_UP, id="it has never answered in five lives"),
    ],
)
def test_after_an_exit(exit_code: int, silent_deaths: int, step: AfterExit) -> None:
    decision = after_exit(exit_code, silent_deaths)
    assert decision.step is step
    assert decision.delay_s < 2.0


def engine(
    *processes: ProcessStatus,
    granted: PartitionWire | None = SPLIT,
    switch: SwitchStatus | None = None,
    error: str | None = None,
) -> EngineStatus:
    return EngineStatus(
        engine_id="engine-0", phase="Steady", isolation=Isolation.MPS, requested=SPLIT, granted=granted,
        processes=list(processes), kv_blocks_total=1, kv_blocks_used=0, ready=True, switch=switch, error=error,
    )  # fmt: skip


def status(*engines: EngineStatus, ready: bool = False) -> AgentStatus:
    return AgentStatus(
        service="chat", url="http://x/v1", ready=ready, draining=False, agent=ProcessStatus(role="agent", pid=5),
        shared=[], engines=list(engines), wish=None, decisions=[], switches=[], attainment_permille=None,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("observed", "listening", "phase"),
    [
        pytest.param(None, 0, None, id="no answer"),
        pytest.param(status(), 0, StartPhase.AGENT, id="an answer"),
        pytest.param(status(engine(MEMORY, granted=None)), 0, StartPhase.AGENT, id="the memory server loads"),
        pytest.param(status(engine(MEMORY, granted=None)), 1, StartPhase.MODEL, id="it listens"),
        pytest.param(status(engine(MEMORY, granted=None), engine(granted=None)), 1, StartPhase.AGENT, id="one of two listens"),
        pytest.param(status(engine(MEMORY, LANE)), 1, StartPhase.LANES, id="lanes have their shares"),
        pytest.param(status(engine(MEMORY, LANE), engine(MEMORY, granted=None)), 2, StartPhase.MODEL, id="those of one engine"),
        pytest.param(status(engine(MEMORY, LANE), ready=True), 1, StartPhase.READY, id="ready"),
    ],
)  # fmt: skip
def test_phase_reached(observed: AgentStatus | None, listening: int, phase: StartPhase | None) -> None:
    assert reached(observed, listening) is phase


def test_each_phase_is_said_once_and_a_skipped_one_with_the_next() -> None:
    said: list[str] = []
    clock = StartClock(100.0, said.append)
    clock.note(None, 100.5)
    clock.note(StartPhase.AGENT, 101.0)
    clock.note(StartPhase.AGENT, 101.2)
    clock.note(StartPhase.LANES, 104.0)
    clock.note(StartPhase.READY, 105.0)
    assert dict(clock.seconds) == {
        "agent answers": 1.0,
        "model loaded": 4.0,
        "lanes attached": 4.0,
        "ready": 5.0,
    }
    assert [line.split()[0] for line in said] == ["agent", "model", "lanes", "ready"]


def test_a_long_phase_is_said_to_go_on() -> None:
    said: list[str] = []
    clock = StartClock(0.0, said.append)
    for now_s in range(1, 22):
        clock.note(StartPhase.AGENT, float(now_s))
    assert said[1:] == ["waiting for “model loaded” since 11 s", "waiting for “model loaded” since 21 s"]


def switch(outcome: str, decision_id: str = "manual-1") -> SwitchStatus:
    return SwitchStatus(
        decision_id=decision_id, at_s=0.0, from_partition=SPLIT, to_partition=OTHER, reason="Manual",
        message="late", seconds=None, outcome=outcome,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("engines", "granted", "refusal"),
    [
        pytest.param([engine(granted=OTHER)], True, None, id="already there"),
        pytest.param([engine(granted=SPLIT)], False, None, id="not begun"),
        pytest.param(
            [engine(granted=OTHER, switch=switch("Switching"))], False, None, id="not yet effective"
        ),
        pytest.param([engine(granted=OTHER, switch=switch("Done"))], True, None, id="done"),
        pytest.param([engine(granted=OTHER), engine(granted=SPLIT)], False, None, id="one engine of two"),
        pytest.param(
            [engine(switch=switch("RolledBack"))], False, "engine-0 rolled back: late", id="rolled back"
        ),
        pytest.param(
            [engine(switch=switch("RolledBack", "cluster-3"))], False, None, id="an older one rolled back"
        ),
        pytest.param([engine(error="no weights")], False, "engine-0: no weights", id="the engine has failed"),
    ],
)
def test_progress_of_a_wish(engines: list[EngineStatus], granted: bool, refusal: str | None) -> None:
    progress = progress_of(WISH, status(*engines))
    assert (progress.is_granted, progress.refusal) == (granted, refusal)


AGENT = "python -m semipd_agent --run-dir"
ENGINE = "python -m semipd_engine"


@pytest.mark.parametrize(
    ("command", "package", "is_its"),
    [
        pytest.param(f"{AGENT} /run/chat", "semipd_agent", True, id="its agent"),
        pytest.param(
            f"{ENGINE}.memory --config /run/chat/engine-0/engine.json", "semipd_engine", True, id="its memory"
        ),
        pytest.param(
            f"{ENGINE}.lane.zygote --socket /run/chat/zygote.sock", "semipd_engine", True, id="its zygote"
        ),
        pytest.param(f"{AGENT} /run/chat2", "semipd_agent", False, id="one whose name begins alike"),
        pytest.param("semipd down --run-dir /run/chat", "semipd_agent", False, id="the command itself"),
        pytest.param("vim /run/chat/service.json", "semipd_engine", False, id="an editor"),
        pytest.param("", "semipd_agent", False, id="a kernel thread"),
    ],
)
def test_processes_of_a_service(command: str, package: str, is_its: bool) -> None:
    assert is_for(command.split(), Path("/run/chat"), package) is is_its


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000/v1"),
        ("0.0.0.0", "http://127.0.0.1:8000/v1"),
        ("::", "http://[::1]:8000/v1"),
    ],
)
def test_the_url_is_one_that_a_client_can_use(host: str, url: str) -> None:
    assert service_url(host, 8000) == url
