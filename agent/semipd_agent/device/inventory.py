"""The device behind one protocol: what is there, how it can be split, whether it is healthy."""

from __future__ import annotations

from typing import Protocol

from semipd_agent.device.cpu import CpuDevice
from semipd_agent.device.facts import Inventory
from semipd_agent.device.nvml import NvmlDevice
from semipd_agent.mps.preflight import GpuSharing
from semipd_core.errors import InvalidSpec


class Device(Protocol):
    """Implementations by technology: CpuDevice, NvmlDevice."""

    def inventory(self) -> Inventory:
        """Raises: DeviceError if the device does not answer."""
        ...

    def sharing(self) -> list[GpuSharing]:
        """Who may use each GPU; empty without GPUs. Raises: DeviceError."""
        ...


def open_device(kind: str) -> Device:
    """Raises: InvalidSpec for an unknown kind, DeviceError if its library is missing."""
    match kind:
        case "CPU":
            return CpuDevice()
        case "CUDA":
            return NvmlDevice()
        case _:
            raise InvalidSpec("device", kind, "CPU or CUDA")
