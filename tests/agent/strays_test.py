"""Who nobody accounts for is ended; a lane among them not in the middle of its work on the GPU."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from semipd_agent import strays
from semipd_agent.journal.file import Journal
from semipd_agent.mps.controller import MpsController
from semipd_agent.mps.replies import MpsError
from semipd_agent.processes.identity import Identity, is_alive, read_identity
from semipd_agent.run_directory import RunDirectory


@pytest.fixture
def stubborn() -> Iterator[Identity]:
    """A process that ignores SIGTERM."""

    program = "trap '' TERM; echo ignores; exec sleep 600"
    with subprocess.Popen(["sh", "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        identity = read_identity(process.pid)
        assert identity is not None
        yield identity
        process.kill()


def test_work_on_the_gpu_is_ended_before_the_kill(
    stubborn: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strays, "KILL_AFTER_S", 0.0)
    found: list[tuple[int, bool]] = []

    async def before_kill(pid: int) -> None:
        found.append((pid, is_alive(stubborn)))

    asyncio.run(strays.end_strays([stubborn], before_kill))
    assert found == [(stubborn.pid, True)]
    assert not is_alive(stubborn)


@pytest.mark.parametrize("answers", [True, False])
def test_a_client_is_terminated_by_a_controller_that_has_not_looked_yet(
    tmp_path: Path, answers: bool
) -> None:
    terminated: list[tuple[int, int]] = []

    async def server_pids() -> list[int]:
        if not answers:
            raise MpsError("get_server_list", "nothing", "a list")
        return [7]

    async def terminate_client(server_pid: int, pid: int) -> bool:
        terminated.append((server_pid, pid))
        return True

    journal = Journal(tmp_path / "journal.jsonl")
    controller = MpsController(["mps"], journal, RunDirectory(tmp_path), sharing=list)
    control: Any = SimpleNamespace(server_pids=server_pids, terminate_client=terminate_client)
    controller.control = control
    asyncio.run(controller.terminate_client(9))
    assert terminated == ([(7, 9)] if answers else [])
