"""The end: drains, signals, a full disk."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from agent_process import AgentProcess

from semipd_agent.supervision.engine import JOURNAL_RETRY_S

pytestmark = pytest.mark.slow


def test_sigterm_while_starting_is_clean(start_agent: Callable[..., AgentProcess]) -> None:
    agent = start_agent()
    agent.until((agent.directory / "agent.sock").exists, "the agent listens")
    assert agent.terminate() == 0
    agent.assert_nothing_left()
    assert not (agent.directory / "journal.jsonl").exists()


def test_a_drain_waits_for_open_requests_and_is_not_ready_at_once(
    start_agent: Callable[..., AgentProcess],
) -> None:
    agent = start_agent({"open_requests": 3, "drain_s": 6.0})
    agent.until_ready()
    began_s = time.monotonic()
    assert agent.post("/v1/drain").status_code == 202
    assert agent.get("/readyz").status_code == 503
    assert agent.status().draining
    assert agent.wish(40).status_code == 409
    assert agent.pids().keys() == {"memory", "coordinator", "frontend", "prefill", "decode"}
    assert agent.wait() == 0
    assert time.monotonic() - began_s >= 6.0  # the requests' time, which is a lower bound
    agent.assert_nothing_left()


def test_a_drain_ends_at_its_timeout_though_requests_are_open(
    start_agent: Callable[..., AgentProcess],
) -> None:
    agent = start_agent({"open_requests": 1, "drain_s": 600}, drain_timeout_seconds=1)
    agent.until_ready()
    assert agent.terminate() == 0
    agent.assert_nothing_left()


def test_a_front_end_is_asked_to_drain_until_it_has_taken_the_order(
    start_agent: Callable[..., AgentProcess],
) -> None:
    faults = {"drain_orders_lost": 2, "open_requests": 1, "drain_s": 1.0}
    agent = start_agent(faults, drain_timeout_seconds=600)
    agent.until_ready()
    assert agent.terminate() == 0  # its request ends only after the order
    agent.assert_nothing_left()


def test_the_next_agent_waits_for_what_a_dead_one_has_left_open(
    start_agent: Callable[..., AgentProcess],
) -> None:
    agent = start_agent({"open_requests": 3, "drain_s": 8.0})
    agent.until_ready()
    began_s = time.monotonic()
    agent.post("/v1/drain")
    agent.until(lambda: agent.engine().phase == "Draining", "draining")
    agent.kill()
    agent.start()
    agent.until(lambda: agent.post("/v1/drain").status_code == 202, "the order is taken again")
    assert agent.wait() == 0
    assert time.monotonic() - began_s >= 8.0  # the requests' time, which is a lower bound
    agent.assert_nothing_left()


def test_a_second_signal_does_not_wait_for_open_requests(start_agent: Callable[..., AgentProcess]) -> None:
    agent = start_agent({"open_requests": 1, "drain_s": 600}, drain_timeout_seconds=600)
    agent.until_ready()
    os.kill(agent.pid, signal.SIGTERM)
    agent.until(lambda: agent.status().draining, "draining")
    assert agent.terminate() == 0
    agent.assert_nothing_left()


def test_a_process_killed_during_a_drain_is_replaced(start_agent: Callable[..., AgentProcess]) -> None:
    agent = start_agent({"open_requests": 1, "drain_s": 600}, drain_timeout_seconds=600)
    agent.until_ready()
    agent.until_steady(80)
    agent.post("/v1/drain")
    agent.until(lambda: agent.engine().phase == "Draining", "draining")
    before = agent.pids()
    os.kill(before["decode"], signal.SIGKILL)
    agent.until(
        lambda: agent.pids().get("decode", before["decode"]) != before["decode"], "decode lane replaced"
    )
    os.kill(agent.pid, signal.SIGINT)
    assert agent.terminate() == 0
    agent.assert_nothing_left()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """64 KiB of tmpfs at the place of the journal's directory; needs the right to mount."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(tmp_path)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"no right to mount: {mounted.stderr.decode().strip()}")
    yield tmp_path
    subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def test_on_a_full_disk_no_wish_is_taken_and_service_goes_on(
    small_disk: Path, start_agent: Callable[..., AgentProcess]
) -> None:
    agent = start_agent()
    agent.until_ready()
    agent.until_steady(80)
    before = agent.pids()
    ballast = small_disk / "ballast"
    _fill(ballast)
    refused = [
        answer
        for number in range(60)
        if (answer := agent.wish(80, decisionId=f"d-{number}")).status_code == 507
    ]
    assert refused[-1].json()["given"] == "journal.jsonl: No space left on device"
    _kill_until_not_replaced(agent, "frontend")
    assert any("No space left on device" in problem for problem in agent.status().problems)
    ballast.unlink()
    agent.until_ready()
    agent.until(lambda: not agent.status().problems, "nothing is wrong any more")
    assert agent.pids()["memory"] == before["memory"]
    assert agent.wish(40).status_code == 200
    agent.until_steady(40)
    assert agent.terminate() == 0
    agent.assert_nothing_left()


def _kill_until_not_replaced(agent: AgentProcess, role: str) -> None:
    """A full disk still has room at the end of the journal's last page: less than a wish, enough for a start or two."""
    for _ in range(3):
        pid = agent.pids()[role]
        os.kill(pid, signal.SIGKILL)
        agent.until(lambda pid=pid: agent.pids().get(role) != pid, "its death is seen")  # type: ignore[misc]
        time.sleep(2 * JOURNAL_RETRY_S)
        if role not in agent.pids():
            return
    raise AssertionError(f"a {role} starts that the journal cannot hold")


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 1024)
        except OSError:
            return
