"""`pynvml` for one H200, where FAKE_NVML names a file: what it says is read from there, at each call."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

VARIABLE = "FAKE_NVML"
NOT_SUPPORTED, NOT_FOUND, DRIVER_NOT_LOADED, TIMEOUT, GPU_IS_LOST = 3, 6, 9, 10, 15
XID_EVENTS = 8
H200_CORES = 132 * 128


class NvmlError(Exception):
    """As pynvml's: `value` is NVML's number."""

    def __init__(self, value: int, message: str = "") -> None:
        self.value = value
        super().__init__(message or f"NVML error {value}")


def install_fake_nvml() -> None:
    if VARIABLE in os.environ:
        sys.modules["pynvml"] = build(Path(os.environ[VARIABLE]))  # type: ignore[assignment]


class GpmRequest:
    """As c_nvmlGpmMetricsGet_t."""

    def __init__(self) -> None:
        self.version = self.numMetrics = 0
        self.sample1: Any = None
        self.sample2: Any = None
        self.metrics = [SimpleNamespace(metricId=0, nvmlReturn=0, value=0.0) for _ in range(16)]


def build(facts: Path) -> SimpleNamespace:
    """`facts`: JSON, everything optional: `computeMode` (NVML's number), `mpsPids`; `noDriver`, `lost` (true);

    `cudaDriver` (NVML's number); `gone` (true: not listed); `xids` (a list that grows: each is told once); `eccErrors`;
    `recoveryAction` (NVML's number); `throttle` (bits); `gpm` ([sm, tensor, dram], or false); `unsupported` (names of functions);
    `usedBytes`; `gpus` (UUIDs, ["GPU-1"] if not said; each Xid is of the first).
    """
    return SimpleNamespace(**_functions(lambda: json.loads(facts.read_text()) if facts.exists() else {}))


def _functions(read: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    told = [0]

    def start() -> None:
        if read().get("noDriver"):
            raise NvmlError(DRIVER_NOT_LOADED, "Driver Not Loaded")

    def answer(name: str, value: Callable[[dict[str, Any]], Any]) -> Callable[..., Any]:
        def call(*_arguments: Any) -> Any:
            said = read()
            if said.get("lost"):
                raise NvmlError(GPU_IS_LOST, "GPU is lost")
            if name in said.get("unsupported", ()):
                raise NvmlError(NOT_SUPPORTED, "Not Supported")
            return value(said)

        return call

    def uuid(handle: int) -> str:
        gpus: list[str] = answer("nvmlDeviceGetUUID", lambda said: said.get("gpus", ["GPU-1"]))()
        if handle >= len(gpus):
            raise NvmlError(NOT_FOUND, "Not Found")
        return gpus[handle]

    def count() -> int:
        said = read()
        return 0 if said.get("gone") else len(said.get("gpus", ["GPU-1"]))

    def wait(_events: Any, timeout_ms: int) -> SimpleNamespace:
        until_s = time.monotonic() + timeout_ms / 1000
        while time.monotonic() < until_s:
            xids = read().get("xids", [])
            if len(xids) > told[0]:
                told[0] += 1
                return SimpleNamespace(device=0, eventType=XID_EVENTS, eventData=xids[told[0] - 1])
            time.sleep(0.02)
        raise NvmlError(TIMEOUT, "Timeout")

    def compare(request: GpmRequest) -> GpmRequest:
        for index, percent in enumerate(read()["gpm"]):
            request.metrics[index].value = percent
        return request

    by_name: dict[str, Callable[[dict[str, Any]], Any]] = {
        "nvmlDeviceGetCudaComputeCapability": lambda said: tuple(said.get("capability", (9, 0))),
        "nvmlDeviceGetNumGpuCores": lambda _said: H200_CORES,
        "nvmlDeviceGetName": lambda _said: "NVIDIA H200",
        "nvmlDeviceGetMemoryInfo": lambda said: SimpleNamespace(
            total=139 << 30, used=said.get("usedBytes", 20 << 30)
        ),
        "nvmlDeviceGetTotalEccErrors": lambda said: said.get("eccErrors", 0),
        "nvmlDeviceGetEccMode": lambda _said: [1, 1],
        "nvmlDeviceGetMigMode": lambda said: [said.get("mig", 0), 0],
        "nvmlDeviceGetRemappedRows": lambda said: (
            0,
            0,
            said.get("remapPending", 0),
            said.get("remapFailed", 0),
        ),
        "nvmlDeviceGetClockInfo": lambda _said: 1980,
        "nvmlDeviceGetMaxClockInfo": lambda _said: 1980,
        "nvmlDeviceGetTemperature": lambda _said: 41,
        "nvmlDeviceGetPowerUsage": lambda _said: 512_300,
        "nvmlDeviceGetEnforcedPowerLimit": lambda _said: 700_000,
        "nvmlDeviceGetCurrentClocksEventReasons": lambda said: said.get("throttle", 0),
        "nvmlDeviceGetFieldValues": lambda said: [
            SimpleNamespace(nvmlReturn=0, value=SimpleNamespace(uiVal=said.get("recoveryAction", 0)))
        ],
        "nvmlDeviceGetComputeMode": lambda said: said.get("computeMode", 0),
        "nvmlDeviceGetComputeRunningProcesses": lambda _said: [],
        "nvmlDeviceGetMPSComputeRunningProcesses": lambda said: [
            SimpleNamespace(pid=pid, usedGpuMemory=None) for pid in said.get("mpsPids", [])
        ],
        "nvmlDeviceGetSupportedEventTypes": lambda _said: XID_EVENTS,
        "nvmlGpmQueryDeviceSupport": lambda said: SimpleNamespace(isSupportedDevice=int("gpm" in said)),
        "nvmlGpmSampleAlloc": lambda _said: object(),
        "nvmlGpmSampleGet": lambda _said: object(),
    }
    return {
        "NVMLError": NvmlError,
        "NVML_COMPUTEMODE_DEFAULT": 0,
        "NVML_COMPUTEMODE_PROHIBITED": 2,
        "NVML_COMPUTEMODE_EXCLUSIVE_PROCESS": 3,
        "NVML_MEMORY_ERROR_TYPE_UNCORRECTED": 1,
        "NVML_VOLATILE_ECC": 0,
        "NVML_FI_DEV_GET_GPU_RECOVERY_ACTION": 230,
        "nvmlEventTypeXidCriticalError": XID_EVENTS,
        "nvmlInit": start,
        "nvmlShutdown": lambda: None,
        "nvmlSystemGetDriverVersion": lambda: "580.65.06",
        "nvmlSystemGetCudaDriverVersion_v2": lambda: read().get("cudaDriver", 13000),
        "nvmlDeviceGetCount": count,
        "nvmlDeviceGetUUID": uuid,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlEventSetCreate": object,
        "nvmlDeviceRegisterEvents": lambda _handle, _types, _events: None,
        "nvmlEventSetWait_v2": wait,
        "nvmlEventSetFree": lambda _events: None,
        "nvmlGpmSampleFree": lambda _sample: None,
        "nvmlGpmMetricsGet": compare,
        "c_nvmlGpmMetricsGet_t": GpmRequest,
        **{name: answer(name, value) for name, value in by_name.items()},
    }
