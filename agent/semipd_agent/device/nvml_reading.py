"""One GPU's facts, read off NVML; each that is not supported is None.

Source: NVML API reference. The clock event reasons "idle" and "set by an application" slow nothing that wants to run.
"""

from __future__ import annotations

from typing import Any

from semipd_agent.device.gpm import Activity
from semipd_agent.device.nvml_calls import ask, code
from semipd_agent.device.reading import DriverVersions, GpuProcess, GpuReading

THROTTLE_BITS = {
    "SwPowerCap": 0x4,
    "HwSlowdown": 0x8,
    "SyncBoost": 0x10,
    "SwThermalSlowdown": 0x20,
    "HwThermalSlowdown": 0x40,
    "HwPowerBrakeSlowdown": 0x80,
}
RECOVERY_ACTIONS = (
    "None",
    "GpuReset",
    "NodeReboot",
    "DrainP2P",
    "DrainAndReset",
    "RecoverImexDomain",
    "BusReset",
    "SystemReboot",
)
COMPUTE_MODES = {0: "DEFAULT", 1: "EXCLUSIVE_THREAD", 2: "PROHIBITED", 3: "EXCLUSIVE_PROCESS"}
RECOVERY_FIELD = "NVML_FI_DEV_GET_GPU_RECOVERY_ACTION"  # drivers of 570 and later
CLOCK_SM, CLOCK_MEMORY, TEMPERATURE_GPU = 1, 2, 0
UNCORRECTED, VOLATILE = 1, 0


def read_gpu(nvml: Any, handle: Any, activity: Activity) -> GpuReading:
    """Raises: GpuLost, nvml.NVMLError if the GPU does not tell its name."""
    memory = ask(nvml, "nvmlDeviceGetMemoryInfo", handle)
    capability = ask(nvml, "nvmlDeviceGetCudaComputeCapability", handle)
    rows = ask(nvml, "nvmlDeviceGetRemappedRows", handle)
    ecc, mig = ask(nvml, "nvmlDeviceGetEccMode", handle), ask(nvml, "nvmlDeviceGetMigMode", handle)
    return GpuReading(
        uuid=nvml.nvmlDeviceGetUUID(handle),
        name=nvml.nvmlDeviceGetName(handle),
        compute_capability=".".join(map(str, capability)) if capability else None,
        memory_total_bytes=memory.total if memory else None,
        memory_used_bytes=getattr(memory, "used", None),
        sm_clock_mhz=ask(nvml, "nvmlDeviceGetClockInfo", handle, CLOCK_SM),
        max_sm_clock_mhz=ask(nvml, "nvmlDeviceGetMaxClockInfo", handle, CLOCK_SM),
        memory_clock_mhz=ask(nvml, "nvmlDeviceGetClockInfo", handle, CLOCK_MEMORY),
        throttle_reasons=_throttle_reasons(nvml, handle),
        temperature_celsius=ask(nvml, "nvmlDeviceGetTemperature", handle, TEMPERATURE_GPU),
        power_watts=_watts(ask(nvml, "nvmlDeviceGetPowerUsage", handle)),
        power_limit_watts=_watts(ask(nvml, "nvmlDeviceGetEnforcedPowerLimit", handle)),
        has_ecc=bool(ecc[0]) if ecc else None,
        uncorrected_errors=ask(nvml, "nvmlDeviceGetTotalEccErrors", handle, UNCORRECTED, VOLATILE),
        remapped_rows=rows[1] if rows else None,
        is_remap_pending=bool(rows[2]) if rows else None,
        has_remap_failed=bool(rows[3]) if rows else None,
        recovery_action=_recovery_action(nvml, handle),
        compute_mode=_compute_mode(ask(nvml, "nvmlDeviceGetComputeMode", handle)),
        is_mig=bool(mig[0]) if mig else None,
        processes=_processes(nvml, handle),
        has_gpm=activity.has_gpm,
        sm_active_percent=activity.sm_percent,
        tensor_active_percent=activity.tensor_percent,
        dram_bandwidth_percent=activity.dram_percent,
    )


def read_versions(nvml: Any) -> DriverVersions:
    """Raises: nothing; an NVML that has started knows both."""
    driver = ask(nvml, "nvmlSystemGetDriverVersion")
    cuda = ask(nvml, "nvmlSystemGetCudaDriverVersion_v2")
    pair = None if cuda is None else (cuda // 1000, cuda % 1000 // 10)
    return DriverVersions(driver=driver, cuda=pair)


def _throttle_reasons(nvml: Any, handle: Any) -> list[str] | None:
    """By the name that drivers of 535 and later have, else by the older one."""
    bits = ask(nvml, "nvmlDeviceGetCurrentClocksEventReasons", handle)
    if bits is None:
        bits = ask(nvml, "nvmlDeviceGetCurrentClocksThrottleReasons", handle)
    return None if bits is None else [name for name, bit in THROTTLE_BITS.items() if bits & bit]


def _recovery_action(nvml: Any, handle: Any) -> str | None:
    field = code(nvml, RECOVERY_FIELD)
    values = ask(nvml, "nvmlDeviceGetFieldValues", handle, [field]) if field is not None else None
    if not values or values[0].nvmlReturn != 0:
        return None
    action = values[0].value.uiVal
    return RECOVERY_ACTIONS[action] if action < len(RECOVERY_ACTIONS) else f"action {action}"


def _compute_mode(mode: int | None) -> str | None:
    return None if mode is None else COMPUTE_MODES.get(mode, f"mode {mode}")


def _processes(nvml: Any, handle: Any) -> list[GpuProcess] | None:
    """With and without MPS, each once."""
    lists = [
        ask(nvml, name, handle)
        for name in ("nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetMPSComputeRunningProcesses")
    ]
    if all(found is None for found in lists):
        return None
    memory_by_pid = {process.pid: process.usedGpuMemory for found in lists for process in found or ()}
    return [GpuProcess(pid=pid, memory_bytes=memory_by_pid[pid]) for pid in sorted(memory_by_pid)]


def _watts(milliwatts: int | None) -> float | None:
    return None if milliwatts is None else milliwatts / 1000
