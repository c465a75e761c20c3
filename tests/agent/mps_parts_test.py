"""The MPS controller's small pure parts: replies, preflight, environments, granted SMs, the daemon's log, NVML."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mps_replies import EXCHANGES

from semipd_agent.device.nvml import NvmlDevice
from semipd_agent.mps import replies
from semipd_agent.mps.daemon_log import MAX_BYTES, DaemonLog
from semipd_agent.mps.environment import daemon_environment, lane_environment
from semipd_agent.mps.observer import MpsObserver
from semipd_agent.mps.preflight import ComputeMode, GpuSharing, refuse
from semipd_agent.mps.replies import MpsError, NoSuchServer, NotPermitted, UnexpectedReply, UnknownCommand
from semipd_agent.mps.view import LaneClient
from semipd_core.errors import DeviceError
from semipd_core.sm_grant import MAX_STEP_SMS, read_grant

PARSERS = [
    replies.parse_nothing,
    replies.parse_pids,
    replies.parse_status,
    replies.parse_percentage,
    replies.parse_terminated,
]


@pytest.mark.parametrize(
    ("parse", "reply", "expected"),
    [
        (replies.parse_pids, "", ()),
        (replies.parse_pids, "26836\n26840", (26836, 26840)),
        (replies.parse_status, "INITIALIZING", replies.ServerStatus.INITIALIZING),
        (replies.parse_status, "ACTIVE", replies.ServerStatus.ACTIVE),
        (replies.parse_status, "FAULT", replies.ServerStatus.FAULT),
        (replies.parse_percentage, "33.3", 33.3),
        (replies.parse_percentage, "", None),
        (replies.parse_terminated, "0", True),
        (replies.parse_terminated, "1", False),
        (replies.parse_nothing, "", None),
    ],
)
def test_a_reply_is_read(parse: object, reply: str, expected: object) -> None:
    assert parse("command", reply) == expected  # type: ignore[operator]


@pytest.mark.parametrize(
    ("parse", "reply", "error"),
    [
        (replies.parse_pids, "Server 7 not found", NoSuchServer),
        (replies.parse_pids, "Server not found", NoSuchServer),
        (replies.parse_terminated, "Server 7 not found\nServer 7 not found!\n1", NoSuchServer),
        (replies.parse_terminated, "", UnexpectedReply),
        (replies.parse_status, 'Unknown command "get_server_status"', UnknownCommand),
        (replies.parse_status, "", UnexpectedReply),
        (replies.parse_percentage, "101.0", UnexpectedReply),
        (replies.parse_percentage, "nan", UnexpectedReply),
        (replies.parse_nothing, "A user id (UID) is required to start a new server", UnexpectedReply),
        (replies.parse_nothing, "Insufficient privileges for UID 7. Only the root user may …", NotPermitted),
        (replies.parse_nothing, "Not enough privilege to execute quit command", NotPermitted),
    ],
)
def test_a_refusal_is_an_error(parse: object, reply: str, error: type[MpsError]) -> None:
    with pytest.raises(error) as raised:
        parse("the command", reply)  # type: ignore[operator]
    assert (raised.value.sent, raised.value.received) == ("the command", reply)
    assert "sent 'the command', got " in str(raised.value)
    assert "allowed: " in str(raised.value)


@given(st.sampled_from(PARSERS), st.text(max_size=40) | st.sampled_from([each.reply for each in EXCHANGES]))
def test_whatever_comes_back_is_a_value_or_an_error_that_says_so(parse: object, reply: str) -> None:
    received = reply
    try:
        parse("command", reply)  # type: ignore[operator]
    except MpsError as error:
        received = error.received
    assert received == reply


def gpu(mode: str = ComputeMode.DEFAULT, mps_pids: tuple[int, ...] = ()) -> GpuSharing:
    return GpuSharing(uuid="GPU-1", compute_mode=mode, mps_pids=mps_pids)


def test_a_free_gpu_is_taken() -> None:
    assert refuse([gpu()], (), "/run/mps/pipe") is None


@pytest.mark.parametrize(
    ("arguments", "reason", "message"),
    [
        (
            ([gpu("PROHIBITED")], (), "/pipe"),
            "WrongComputeMode",
            "GPU-1: compute mode: got PROHIBITED, allowed: DEFAULT",
        ),
        (
            ([gpu("EXCLUSIVE_PROCESS")], (), "/pipe"),
            "WrongComputeMode",
            "GPU-1: compute mode: got EXCLUSIVE_PROCESS, allowed: DEFAULT",
        ),
        (
            ([gpu(mps_pids=(7, 8))], (), "/pipe"),
            "ForeignServer",
            "GPU-1 is shared by another MPS server already: its clients are PID 7, 8",
        ),
        (
            ([gpu()], (7,), "/pipe"),
            "ForeignServer",
            "nvidia-cuda-mps-server of another pipe directory lives: PID 7",
        ),
        (([gpu()], (), "/" + "p" * 100), "PathTooLong", "at most 88 bytes"),
    ],
)
def test_a_gpu_that_others_manage_is_refused(
    arguments: tuple[list[GpuSharing], tuple[int, ...], str], reason: str, message: str
) -> None:
    refusal = refuse(*arguments)
    assert refusal is not None
    assert refusal.reason == reason
    assert message in refusal.message


def test_exclusive_process_is_taken_where_it_was_asked_for() -> None:
    allowed = (ComputeMode.EXCLUSIVE_PROCESS,)
    assert refuse([gpu("EXCLUSIVE_PROCESS")], (), "/pipe", allowed) is None
    assert refuse([gpu()], (), "/pipe", allowed) is not None


def test_the_daemon_caps_nobody_and_its_clients_name_no_device() -> None:
    inherited = {
        "PATH": "/usr/bin",
        "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "30",
        "CUDA_VISIBLE_DEVICES": "3",
        "CUDA_MPS_PROTOCOL_VERSION": "3",
    }
    assert daemon_environment(inherited, "/pipe", "/log", ["GPU-1", "GPU-2"]) == {
        "PATH": "/usr/bin",
        "CUDA_MPS_PIPE_DIRECTORY": "/pipe",
        "CUDA_MPS_LOG_DIRECTORY": "/log",
        "CUDA_VISIBLE_DEVICES": "GPU-1,GPU-2",
    }
    assert lane_environment("/pipe") == {
        "CUDA_MPS_PIPE_DIRECTORY": "/pipe",
        "CUDA_DEVICE_MAX_CONNECTIONS": "2",
    }


@pytest.mark.parametrize(
    ("requested", "granted_sms", "percent", "reason"),
    [
        (60, 78, 60, None),  # 79.2 SMs, rounded down to a multiple of 2
        (60, 72, 60, None),  # or of 8
        (100, 132, 100, None),
        (1, 2, 1, None),  # a TPC is the least
        (60, 132, 100, "the whole GPU: the lane runs without MPS"),
        (60, 80, 60, "80 of 132 SMs are more than the cap"),
        (60, 64, 48, "64 of 132 SMs are fewer than rounding explains"),
    ],
)
def test_what_an_h200_grants(requested: int, granted_sms: int, percent: int, reason: str | None) -> None:
    grant = read_grant(requested, granted_sms, 132)
    assert (grant.percent, grant.reason) == (percent, reason)


@given(st.integers(1, 100), st.sampled_from([1, 2, 4, 8]), st.integers(16, 200))
def test_every_rounding_down_to_what_hardware_tells_apart_is_what_was_asked_for(
    requested: int, step_sms: int, device_sms: int
) -> None:
    assert step_sms <= MAX_STEP_SMS
    granted_sms = requested * device_sms // 100 // step_sms * step_sms
    if granted_sms:
        assert read_grant(requested, granted_sms, device_sms).reason is None


def test_an_impossible_count_is_refused() -> None:
    with pytest.raises(ValueError, match=r"granted_sms is 133, allowed: 1\.\.132"):
        read_grant(60, 133, 132)


STAMP = "[2026-11-21 18:20:43.377 Control 24538] "


def test_the_daemons_log_is_read_without_the_routine(tmp_path: Path) -> None:
    path = tmp_path / "control.out"
    log = DaemonLog(path)
    assert log.read() == []
    said = [
        "NEW UI",
        "Cmd:get_server_list",
        "26836",
        "UI closed",
        "Server 24578 exited with status 1",
        "half",
    ]
    path.write_text("\n".join(STAMP + line for line in said))
    assert log.read() == ["Server 24578 exited with status 1"]
    assert log.why_server_ended() == "Server 24578 exited with status 1"
    with path.open("a") as file:
        file.write(" a line\n")
    assert log.read() == ["half a line"]


def test_the_daemons_log_is_cut_while_the_daemon_writes_it(tmp_path: Path) -> None:
    path = tmp_path / "control.out"
    log = DaemonLog(path)
    with path.open("a") as daemon:
        daemon.write((STAMP + "UI closed\n") * (MAX_BYTES // 40))
        daemon.flush()
        assert log.read() == []
        assert path.stat().st_size == 0
        daemon.write(STAMP + "Server 7 is <busy>\n")
        daemon.flush()
        assert log.read() == ["Server 7 is <busy>"]


class NvmlError(Exception):
    pass


def nvml(**changes: object) -> SimpleNamespace:
    functions: dict[str, object] = {
        "NVMLError": NvmlError,
        "NVML_COMPUTEMODE_DEFAULT": 0,
        "NVML_COMPUTEMODE_PROHIBITED": 2,
        "NVML_COMPUTEMODE_EXCLUSIVE_PROCESS": 3,
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetCount": lambda: 1,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetUUID": lambda _handle: "GPU-1",
        "nvmlDeviceGetComputeMode": lambda _handle: 3,
        "nvmlDeviceGetMPSComputeRunningProcesses": lambda _handle: [SimpleNamespace(pid=9)],
    }
    return SimpleNamespace(**{**functions, **changes})


def test_nvml_tells_who_shares_a_gpu() -> None:
    assert NvmlDevice(nvml()).sharing() == [gpu("EXCLUSIVE_PROCESS", (9,))]  # type: ignore[arg-type]
    (other,) = NvmlDevice(nvml(nvmlDeviceGetComputeMode=lambda _handle: 1)).sharing()  # type: ignore[arg-type]
    assert other.compute_mode == "mode 1"


def test_a_missing_driver_is_said() -> None:
    def fail() -> None:
        raise NvmlError("Driver Not Loaded")

    with pytest.raises(
        DeviceError, match="NVML does not start: Driver Not Loaded; is the NVIDIA driver installed"
    ):
        NvmlDevice(nvml(nvmlInit=fail)).sharing()  # type: ignore[arg-type]


def test_lanes_that_have_ended_hold_up_no_check_before_the_daemon_starts(tmp_path: Path) -> None:
    observer = MpsObserver(SimpleNamespace(), "no-such-program", str(tmp_path), list)  # type: ignore[arg-type]
    child: Any = SimpleNamespace(is_alive=False, view=lambda: None, backoff=SimpleNamespace(failures=0))
    ended = LaneClient(pid=1 << 30, lane_id="decode-1", percent=40, granted_percent=None)  # above any pid_max
    view = asyncio.run(observer.observe(child, [ended], is_ending=False, is_quit_sent=False))
    assert view.lanes == ()
    assert view.refusal is not None
    assert view.refusal.reason == "NoBinary"
