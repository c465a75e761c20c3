"""What one look at the GPUs found: the input of `health.decide`, of the metrics and of `semipd doctor`.

None stands for what the card or its driver does not tell.
"""

from __future__ import annotations

import msgspec

from semipd_agent.device.facts import DeviceUnit


class GpuProcess(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """`pid` is the host's. `memory_bytes` counts shared memory once for each process."""

    pid: int
    memory_bytes: int | None


class GpuReading(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """One GPU. Activities are means since the look before, None at the first one and before Hopper."""

    uuid: str
    name: str
    compute_capability: str | None = None  # "9.0"
    memory_total_bytes: int | None = None
    memory_used_bytes: int | None = None
    sm_clock_mhz: int | None = None
    max_sm_clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
    throttle_reasons: list[str] | None = None
    temperature_celsius: int | None = None
    power_watts: float | None = None
    power_limit_watts: float | None = None
    has_ecc: bool | None = None
    uncorrected_errors: int | None = None  # since the driver was loaded
    remapped_rows: int | None = None  # of memory, by uncorrectable errors
    is_remap_pending: bool | None = None  # until the next reset
    has_remap_failed: bool | None = None
    recovery_action: str | None = None  # what the driver asks for, "None" where nothing
    compute_mode: str | None = None
    is_mig: bool | None = None
    processes: list[GpuProcess] | None = None
    has_gpm: bool = False
    sm_active_percent: float | None = None
    tensor_active_percent: float | None = None
    dram_bandwidth_percent: float | None = None


class DriverVersions(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    driver: str | None
    cuda: tuple[int, int] | None  # the newest that the driver serves


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """`error`: why nothing could be read. `is_lost`: a GPU that is listed answered that it is lost."""

    units: tuple[DeviceUnit, ...] = ()
    readings: tuple[GpuReading, ...] = ()
    versions: DriverVersions | None = None
    error: str | None = None
    is_lost: bool = False
