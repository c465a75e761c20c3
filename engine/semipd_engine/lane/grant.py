"""Which share of its GPU a lane was given, read back from the driver: what was asked for proves nothing.

Source: MPS documentation, "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": a client's multiprocessor count is that of its share.
NVML is no client and counts the whole GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import structlog

from semipd_core.errors import DeviceError
from semipd_core.partition import Isolation
from semipd_core.sm_grant import Grant, read_grant
from semipd_engine.cuda.driver import Driver, invoke, load_bindings

CORES_PER_SM = {(8, 0): 64}  # by compute capability; later ones: 128


class SmCounts(Protocol):
    """Of the lane's GPU. Each method raises DeviceError."""

    def is_mps_client(self) -> bool: ...

    def granted(self) -> int:
        """SMs that this process can use."""

    def whole(self) -> int:
        """SMs of the GPU."""


def judge_grant(requested_percent: int, counts: SmCounts) -> Grant:
    """What a lane under MPS reports. Raises: DeviceError where it cannot be known."""
    if not counts.is_mps_client():
        return Grant(percent=100, reason="the whole GPU: the lane runs without MPS")
    granted, whole = counts.granted(), counts.whole()
    try:
        return read_grant(requested_percent, granted, whole)
    except ValueError as error:
        raise DeviceError(f"the driver counts {granted} SMs for this lane, NVML {whole}: {error}") from error


def common_grant(percents: Sequence[int]) -> int:
    """What a lane reports whose ranks were granted `percents`, by their numbers. Raises: DeviceError if they differ.

    The slowest rank sets the pace, and a rank that takes more than its share (or runs without MPS) is not to be hidden by it.
    """
    if len(set(percents)) > 1:
        found = ", ".join(f"rank {rank} {percent} %" for rank, percent in enumerate(percents))
        raise DeviceError(f"the GPUs of one lane granted different shares: {found}")
    return percents[0]


class DriverSmCounts:
    """By the CUDA driver in this process, and NVML."""

    def __init__(self, driver: Driver, device_index: int) -> None:
        self._driver = driver
        self._index = device_index

    def is_mps_client(self) -> bool:
        return self._driver.is_mps_client(self._index)

    def granted(self) -> int:
        cu = load_bindings()
        attribute = cu.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT
        return int(invoke(cu.cuDeviceGetAttribute, attribute, invoke(cu.cuDeviceGet, self._index)))

    def whole(self) -> int:
        import pynvml  # noqa: PLC0415

        nvml: Any = pynvml
        try:
            nvml.nvmlInit()
            try:
                handle = nvml.nvmlDeviceGetHandleByUUID(self._driver.uuid(self._index))
                cores = int(nvml.nvmlDeviceGetNumGpuCores(handle))
            finally:
                nvml.nvmlShutdown()
        except nvml.NVMLError as error:
            raise DeviceError(f"NVML does not count the GPU's cores: {error}") from error
        return cores // CORES_PER_SM.get(self._driver.compute_capability(self._index), 128)


def read_granted_percent(
    isolation: Isolation,
    requested_percent: int,
    driver: Driver,
    device_index: int,
    logger: structlog.stdlib.BoundLogger,
) -> int:
    """Only MPS confines a process. Raises: DeviceError."""
    if isolation is not Isolation.MPS:
        return 100
    grant = judge_grant(requested_percent, DriverSmCounts(driver, device_index))
    if grant.reason is not None:
        logger.warning(
            "granted another share",
            requested_percent=requested_percent,
            percent=grant.percent,
            reason=grant.reason,
        )
    return grant.percent
