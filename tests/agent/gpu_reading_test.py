"""What is read off NVML, whatever a card or its driver does not support; and Xids by NVML's events."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_nvml import NvmlError, build

from semipd_agent.device.nvml import NvmlDevice
from semipd_agent.device.xid_events import XidEvents
from semipd_core.errors import DeviceError

DEADLINE_S = 90.0
OPTIONAL = (
    "nvmlDeviceGetEccMode",
    "nvmlDeviceGetMigMode",
    "nvmlDeviceGetRemappedRows",
    "nvmlDeviceGetClockInfo",
    "nvmlDeviceGetMaxClockInfo",
    "nvmlDeviceGetTemperature",
    "nvmlDeviceGetPowerUsage",
    "nvmlDeviceGetEnforcedPowerLimit",
    "nvmlDeviceGetCurrentClocksEventReasons",
    "nvmlDeviceGetFieldValues",
    "nvmlDeviceGetComputeMode",
    "nvmlDeviceGetComputeRunningProcesses",
    "nvmlDeviceGetMPSComputeRunningProcesses",
    "nvmlDeviceGetTotalEccErrors",
    "nvmlDeviceGetNumGpuCores",
    "nvmlGpmQueryDeviceSupport",
)


class Gpu:
    """NVML over a file of facts."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.nvml = build(path)
        self.device = NvmlDevice(self.nvml)  # type: ignore[arg-type]

    def says(self, **facts: object) -> None:
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps(facts))
        new.rename(self.path)


@pytest.fixture
def gpu(tmp_path: Path) -> Gpu:
    return Gpu(tmp_path / "nvml.json")


def test_everything_that_a_hopper_tells(gpu: Gpu) -> None:
    gpu.says(throttle=0x4 | 0x40, mpsPids=[7, 5], gpm=[61.5, 40.0, 80.25], eccErrors=1)
    gpu.device.look()
    look = gpu.device.look()
    (reading,) = look.readings
    assert (reading.uuid, reading.name, reading.compute_capability) == ("GPU-1", "NVIDIA H200", "9.0")
    assert (reading.memory_total_bytes, reading.memory_used_bytes) == (139 << 30, 20 << 30)
    assert (reading.sm_clock_mhz, reading.temperature_celsius, reading.power_watts) == (1980, 41, 512.3)
    assert reading.throttle_reasons == ["SwPowerCap", "HwThermalSlowdown"]
    assert (reading.compute_mode, reading.is_mig, reading.recovery_action) == ("DEFAULT", False, "None")
    assert [process.pid for process in reading.processes or []] == [5, 7]
    activity = (reading.sm_active_percent, reading.tensor_active_percent, reading.dram_bandwidth_percent)
    assert activity == (61.5, 40.0, 80.25)
    assert look.versions is not None
    assert (look.versions.driver, look.versions.cuda) == ("580.65.06", (13, 0))


def test_gpus_that_are_not_in_use_are_left_out_even_if_they_are_lost(gpu: Gpu) -> None:
    gpu.device.keep_to(frozenset({"GPU-2"}))
    gpu.says(gpus=["GPU-1", "GPU-2"])
    assert [unit.uuid for unit in gpu.device.look().units] == ["GPU-2"]
    assert [each.uuid for each in gpu.device.sharing()] == ["GPU-2"]
    tell = gpu.nvml.nvmlDeviceGetUUID

    def tell_but_the_first(handle: int) -> str:
        if handle == 0:
            raise NvmlError(15, "GPU is lost")
        return tell(handle)  # type: ignore[no-any-return]

    gpu.nvml.nvmlDeviceGetUUID = tell_but_the_first
    look = gpu.device.look()
    assert ([unit.uuid for unit in look.units], look.is_lost) == (["GPU-2"], False)
    assert [each.uuid for each in gpu.device.sharing()] == ["GPU-2"]
    gpu.device.keep_to(frozenset({"GPU-1", "GPU-2"}))
    assert gpu.device.look().is_lost
    with pytest.raises(DeviceError, match="GPU is lost"):
        gpu.device.sharing()


def test_a_driver_that_does_not_list_clients_of_mps_leaves_the_sharing_readable(gpu: Gpu) -> None:
    gpu.says(unsupported=["nvmlDeviceGetMPSComputeRunningProcesses"])
    (found,) = gpu.device.sharing()
    assert (found.compute_mode, found.mps_pids) == ("DEFAULT", ())


def test_activity_needs_a_sample_to_compare_with(gpu: Gpu) -> None:
    gpu.says(gpm=[1.0, 2.0, 3.0])
    (first,) = gpu.device.look().readings
    assert (first.has_gpm, first.sm_active_percent) == (True, None)


def test_samples_are_freed_and_sessions_ended_once_the_gpu_is_lost(gpu: Gpu) -> None:
    sessions, samples = [0], [0]
    count = lambda cell, step: lambda *_args: cell.__setitem__(0, cell[0] + step)  # noqa: E731
    alloc = gpu.nvml.nvmlGpmSampleAlloc

    def allocate() -> object:
        samples[0] += 1
        return alloc()

    gpu.nvml.nvmlInit, gpu.nvml.nvmlShutdown = count(sessions, 1), count(sessions, -1)
    gpu.nvml.nvmlGpmSampleAlloc, gpu.nvml.nvmlGpmSampleFree = allocate, count(samples, -1)
    gpu.says(gpm=[1.0, 2.0, 3.0])
    for _ in range(3):
        gpu.device.look()
    assert (sessions[0], samples[0]) == (1, 1)
    gpu.says(gpm=[1.0, 2.0, 3.0], lost=True)
    assert gpu.device.look().is_lost
    assert (sessions[0], samples[0]) == (0, 0)


@pytest.mark.parametrize("missing", OPTIONAL)
def test_what_is_not_supported_is_none_and_nothing_else_suffers(gpu: Gpu, missing: str) -> None:
    gpu.says(unsupported=[missing])
    look = gpu.device.look()
    assert look.error is None
    assert [reading.uuid for reading in look.readings] == ["GPU-1"]


def test_a_pynvml_that_lacks_functions_is_as_good_as_a_card_that_does(gpu: Gpu) -> None:
    for name in OPTIONAL:
        delattr(gpu.nvml, name)
    delattr(gpu.nvml, "NVML_FI_DEV_GET_GPU_RECOVERY_ACTION")
    (reading,) = gpu.device.look().readings
    told = {name for name in reading.__struct_fields__ if getattr(reading, name) not in (None, False)}
    assert told == {"uuid", "name", "compute_capability", "memory_total_bytes", "memory_used_bytes"}


@pytest.mark.parametrize(
    ("facts", "error", "is_lost"),
    [
        pytest.param({"noDriver": True}, "NVML does not start: Driver Not Loaded", False, id="no driver"),
        pytest.param({"lost": True}, None, True, id="a lost GPU"),
        pytest.param({"gone": True}, None, False, id="a GPU that is not listed"),
    ],
)
def test_a_look_never_raises(gpu: Gpu, facts: dict[str, Any], error: str | None, *, is_lost: bool) -> None:
    gpu.says(**facts)
    look = gpu.device.look()
    assert (look.error or "").startswith(error or "")
    assert (look.error is None, look.is_lost, look.readings) == (error is None, is_lost, ())


@pytest.fixture
def heard(gpu: Gpu) -> Any:
    """`heard(nvml)` starts to listen and gives a function that awaits so many events."""
    found: list[tuple[str, int]] = []
    changed = threading.Condition()
    threads: list[XidEvents] = []

    def on_xid(uuid: str, xid: int) -> None:
        with changed:
            found.append((uuid, xid))
            changed.notify_all()

    def until(number: int) -> list[tuple[str, int]]:
        with changed:
            assert changed.wait_for(lambda: len(found) >= number, DEADLINE_S)
            return list(found)

    def listen(nvml: SimpleNamespace) -> Callable[[int], list[tuple[str, int]]]:
        threads.append(XidEvents(nvml, on_xid, retry_s=0.0))
        threads[-1].start()
        return until

    yield listen
    for thread in threads:
        thread.stop(DEADLINE_S)


def test_xids_come_with_the_gpu_that_they_are_of(gpu: Gpu, heard: Any) -> None:
    gpu.says(xids=[13])
    until = heard(gpu.nvml)
    assert until(1) == [("GPU-1", 13)]
    gpu.says(xids=[13, 79])
    assert until(2) == [("GPU-1", 13), ("GPU-1", 79)]


def test_a_wait_that_fails_is_begun_anew(gpu: Gpu, heard: Any) -> None:
    plain, failures = gpu.nvml.nvmlEventSetWait_v2, [3]

    def wait(events: object, timeout_ms: int) -> SimpleNamespace:
        if failures[0]:
            failures[0] -= 1
            raise NvmlError(999, "Unknown Error")
        return plain(events, timeout_ms)  # type: ignore[no-any-return]

    gpu.nvml.nvmlEventSetWait_v2 = wait
    gpu.says(xids=[31])
    assert heard(gpu.nvml)(1) == [("GPU-1", 31)]
    assert failures == [0]


def test_a_session_that_is_renewed_hears_on(gpu: Gpu) -> None:
    heard: queue.Queue[int] = queue.Queue()
    sessions: queue.Queue[None] = queue.Queue()
    gpu.nvml.nvmlInit = lambda: sessions.put(None)
    events = XidEvents(gpu.nvml, lambda _uuid, xid: heard.put(xid), retry_s=0.0)
    events.start()
    sessions.get(timeout=DEADLINE_S)
    events.renew()
    sessions.get(timeout=DEADLINE_S)
    gpu.says(xids=[13])
    assert heard.get(timeout=DEADLINE_S) == 13
    events.stop(DEADLINE_S)


def test_a_renewal_asked_for_while_a_session_opens_is_followed_by_one_at_once(gpu: Gpu) -> None:
    sessions: queue.Queue[None] = queue.Queue()
    renewals = [1]

    def open_session() -> None:
        sessions.put(None)
        if renewals[0]:
            renewals[0] -= 1
            events.renew()

    gpu.nvml.nvmlInit = open_session
    events = XidEvents(gpu.nvml, lambda _uuid, _xid: None, retry_s=10 * DEADLINE_S)
    events.start()
    for _ in range(2):
        sessions.get(timeout=DEADLINE_S)
    events.stop(DEADLINE_S)


def test_a_lost_gpu_keeps_no_xid_of_another_away(gpu: Gpu, heard: Any) -> None:
    plain = gpu.nvml.nvmlDeviceGetHandleByIndex

    def get(index: int) -> object:
        if index == 0:
            raise NvmlError(15, "GPU is lost")
        return plain(index)

    gpu.nvml.nvmlDeviceGetHandleByIndex = get
    gpu.says(gpus=["GPU-1", "GPU-2"], xids=[13])
    assert heard(gpu.nvml)(1) == [("GPU-2", 13)]


def test_without_a_driver_the_thread_waits_for_one(gpu: Gpu, heard: Any) -> None:
    gpu.says(noDriver=True)
    until = heard(gpu.nvml)
    gpu.says(xids=[43])
    assert until(1) == [("GPU-1", 43)]
