"""The fake control binary and the real one, held against one table of commands and replies.

The real one is found by SEMIPD_MPS_CONTROL, on PATH, or where `make mps-control` has unpacked it. It needs no driver: its
servers are put in its place.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from mps_daemon import FAKE, REAL_VARIABLE, MpsDaemon, living_servers, real_command, until
from mps_replies import EXCHANGES, Evidence, Exchange

from semipd_agent.mps.control import NoDaemon

RECORDED = [exchange for exchange in EXCHANGES if exchange.evidence is Evidence.RECORDED]


@pytest.fixture(params=["fake", "fake of 535", "real"])
def daemon(request: pytest.FixtureRequest, no_other_mps: None, tmp_path: Path) -> Iterator[MpsDaemon]:
    command = real_command() if request.param == "real" else FAKE
    if command is None:
        pytest.skip(f"no nvidia-cuda-mps-control: make mps-control, or {REAL_VARIABLE}")
    daemon = MpsDaemon(tmp_path / "mps", command)
    if request.param != "real":
        daemon.script(version=535 if request.param == "fake of 535" else 555, status="INITIALIZING")
    yield daemon
    daemon.clear_away()


def is_old(daemon: MpsDaemon) -> bool:
    return daemon.ask("get_server_status 99999").startswith("Unknown command")


def id_of(exchange: Exchange) -> str:
    server = " of a server" if exchange.has_server else ""
    return f"{exchange.sent or 'an empty line'}{server}"


@pytest.mark.parametrize("exchange", RECORDED, ids=id_of)
def test_every_recorded_reply_is_what_the_binary_says(daemon: MpsDaemon, exchange: Exchange) -> None:
    daemon.start()
    pid = str(daemon.start_server()) if exchange.has_server else ""
    reply = exchange.old_reply if exchange.old_reply and is_old(daemon) else exchange.reply
    sent = exchange.sent.replace(" S", f" {pid}")
    assert daemon.ask(sent) == reply.replace("S\n", f"{pid}\n").replace("Server S", f"Server {pid}")


def test_a_second_daemon_in_the_pipe_directory_is_refused(daemon: MpsDaemon) -> None:
    daemon.start()
    second = subprocess.run(
        [*daemon.command, "-f"], env=daemon.environment, capture_output=True, text=True, check=False
    )
    assert (second.returncode, second.stdout.strip()) == (1, "An instance of this daemon is already running")


def test_a_daemon_without_its_directory_does_not_start(daemon: MpsDaemon) -> None:
    environment = {**daemon.environment, "CUDA_MPS_PIPE_DIRECTORY": str(daemon.pipes / "none" / "below")}
    done = subprocess.run(
        [*daemon.command, "-f"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "Cannot access CUDA_MPS_PIPE_DIRECTORY=" in done.stdout + done.stderr


async def test_without_a_daemon_the_front_end_says_so(daemon: MpsDaemon) -> None:
    with pytest.raises(NoDaemon, match="sent 'get_server_list', got 'Cannot find MPS control daemon"):
        await daemon.control().server_pids()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_daemon_that_is_signalled_leaves_its_servers_behind_and_can_start_again(
    daemon: MpsDaemon, number: signal.Signals
) -> None:
    daemon.start()
    server = daemon.start_server()
    daemon.signal(number)
    daemon.kill()
    assert living_servers(daemon.pipes) == {server}
    daemon.start()
    assert daemon.ask("get_server_list") == ""


def test_a_killed_server_is_no_longer_listed_and_the_next_one_can_start(daemon: MpsDaemon) -> None:
    daemon.start()
    first = daemon.start_server()
    os.kill(first, signal.SIGKILL)
    until(lambda: daemon.ask("get_server_list") == "", "the server is not listed")
    assert daemon.start_server() != first


async def test_quit_ends_a_daemon_without_servers(daemon: MpsDaemon) -> None:
    daemon.start()
    await daemon.control().quit(timeout_s=2, deadline_s=90.0)
    with pytest.raises(NoDaemon):
        await daemon.control().server_pids()


def test_several_commands_at_once_are_answered_without_a_mark_between_them(daemon: MpsDaemon) -> None:
    daemon.start()
    assert daemon.ask("get_default_active_thread_percentage\nget_server_list\nbogus") == (
        '100.0\nUnknown command "bogus"\n'
    )
