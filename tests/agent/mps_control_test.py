"""The client of the control daemon, against the fake: values, refusals and deadlines, each error with what was sent."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from mps_daemon import MpsDaemon, until
from mps_replies import EXCHANGES, Evidence, Exchange

from semipd_agent.mps.control import MpsControl, NoAnswer, NoBinary
from semipd_agent.mps.replies import MpsError, NoSuchServer, ServerStatus, UnexpectedReply

UNVERIFIED = [exchange for exchange in EXCHANGES if exchange.evidence is Evidence.UNVERIFIED]


@pytest.fixture
def daemon(no_other_mps: None, tmp_path: Path) -> Iterator[MpsDaemon]:
    daemon = MpsDaemon(tmp_path / "mps")
    daemon.start()
    yield daemon
    daemon.clear_away()


@pytest.mark.parametrize("exchange", UNVERIFIED, ids=lambda exchange: exchange.sent)
def test_the_fake_says_what_is_documented_and_unverified(daemon: MpsDaemon, exchange: Exchange) -> None:
    pid = str(daemon.start_server())
    assert daemon.ask(exchange.sent.replace(" S", f" {pid}")) == exchange.reply


async def test_a_server_starts_tells_its_status_and_ends_by_force(daemon: MpsDaemon) -> None:
    control = daemon.control()
    await control.start_server(os.getuid())
    (server,) = await control.server_pids()
    assert await control.server_status(server) is ServerStatus.ACTIVE
    assert await control.client_pids(server) == ()
    await control.shutdown_server(server, is_forced=True)
    assert await control.server_pids() == ()
    with pytest.raises(NoSuchServer):
        await control.server_status(server)


@pytest.mark.parametrize("version", [535, 555])
@pytest.mark.parametrize("status", [ServerStatus.INITIALIZING, ServerStatus.ACTIVE])
async def test_a_binary_without_get_server_status_tells_a_ready_server_by_its_percentage(
    daemon: MpsDaemon, version: int, status: ServerStatus
) -> None:
    daemon.script(version=version, status=status)
    assert await daemon.control().server_status(daemon.start_server()) is status


async def test_a_fault_lasts_until_the_last_client_has_exited(daemon: MpsDaemon) -> None:
    control, server = daemon.control(), daemon.start_server()
    daemon.add_client(os.getpid())
    daemon.fault()
    assert await control.server_status(server) is ServerStatus.FAULT
    assert await control.client_pids(server) == (os.getpid(),)
    (daemon.pipes / "clients" / str(os.getpid())).unlink()
    assert await control.server_status(server) is ServerStatus.ACTIVE


async def test_settings_are_read_back(daemon: MpsDaemon) -> None:
    control, server = daemon.control(), daemon.start_server()
    assert await control.set_default_active_thread_percentage(33.3) == 33.3
    assert await control.set_active_thread_percentage(server, 60) == 60.0
    with pytest.raises(MpsError, match=r"sent 'set_default_active_thread_percentage 101', got '33\.3'"):
        await control.set_default_active_thread_percentage(101)
    assert await control.default_active_thread_percentage() == 33.3


async def test_a_client_is_terminated_or_the_refusal_is_told(daemon: MpsDaemon) -> None:
    control, server = daemon.control(), daemon.start_server()
    daemon.add_client(os.getpid())
    assert await control.terminate_client(server, os.getpid())
    assert daemon.terminated == {os.getpid()}
    daemon.script(refusesTerminate=True)
    assert not await control.terminate_client(server, os.getpid())


async def test_a_daemon_that_hangs_is_an_error_with_the_deadline(daemon: MpsDaemon) -> None:
    daemon.script(silent=True)
    with pytest.raises(
        NoAnswer, match=r"sent 'get_server_list', got 'nothing', allowed: a reply within 0\.5 s"
    ):
        await daemon.control(deadline_s=0.5).server_pids()
    daemon.script(silent=False)
    until(lambda: daemon.ask("get_default_active_thread_percentage"), "it answers the next")


@pytest.mark.parametrize("reply", ["26836 ACTIVE\n", "Segmentation fault\n", "-1\n"])
async def test_an_unparsable_reply_says_what_was_sent_and_what_came_back(
    daemon: MpsDaemon, reply: str
) -> None:
    daemon.script(replies={"get_server_list": reply})
    with pytest.raises(UnexpectedReply) as raised:
        await daemon.control().server_pids()
    assert (raised.value.sent, raised.value.received) == ("get_server_list", reply.strip())
    assert "allowed: one PID a line" in str(raised.value)


async def test_a_missing_binary_is_an_error_that_names_it(tmp_path: Path) -> None:
    control = MpsControl([str(tmp_path / "nvidia-cuda-mps-control")], dict(os.environ))
    with pytest.raises(NoBinary, match="nvidia-cuda-mps-control: No such file or directory"):
        await control.server_pids()
