"""Device memory that its owner fills and then shows to other processes. Everything is given back if a step fails."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Protocol

from semipd_engine.cuda.driver import Driver
from semipd_engine.memory.manifest import Transport


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What another process needs to map the memory: a descriptor (VMM), or 64 bytes (IPC)."""

    fd: int | None = None
    ipc_handle: bytes = b""


class OwnedMemory(Protocol):
    num_bytes: int  # as allocated, at least what was asked for

    @property
    def address(self) -> int:
        """In the owner's process, until `unmap`."""

    def offer(self) -> Offer:
        """Its descriptor stays the owner's. Raises: CudaError."""

    def unmap(self) -> None:
        """The owner looks no more; the memory stays. Raises: CudaError."""

    def close(self) -> None:
        """Give the memory back, as far as nobody else maps it. Raises: CudaError."""


def round_up(num_bytes: int, granularity_bytes: int) -> int:
    return -(-num_bytes // granularity_bytes) * granularity_bytes


class VmmMemory:
    """After `unmap` no context and no handle keeps it, only its descriptor and whoever maps it.

    Source: CUDA Driver API, "Virtual Memory Management": memory is freed with its last handle, descriptor and mapping.
    """

    def __init__(self, driver: Driver, device_index: int, num_bytes: int) -> None:
        self.num_bytes = round_up(num_bytes, driver.granularity(device_index))
        self._driver = driver
        self._fd: int | None = None
        with ExitStack() as undo:
            self._handle = driver.create(self.num_bytes, device_index)
            undo.callback(driver.release, self._handle)
            self.address = map_handle(driver, undo, self._handle, self.num_bytes, device_index, writable=True)
            self._mapping = undo.pop_all()

    def offer(self) -> Offer:
        if self._fd is None:
            self._fd = self._driver.export_fd(self._handle)
            os.set_inheritable(self._fd, False)
        return Offer(fd=self._fd)

    def unmap(self) -> None:
        assert self._fd is not None, "nothing would keep the memory"
        self._mapping.close()

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
        self._mapping.close()


def map_handle(
    driver: Driver, undo: ExitStack, handle: int, num_bytes: int, device_index: int, *, writable: bool
) -> int:
    """Where the memory behind `handle` now lies; `undo` hears how each step is taken back. Raises: CudaError."""
    address = driver.reserve(num_bytes)
    undo.callback(driver.free_range, address, num_bytes)
    driver.map(address, num_bytes, handle)
    undo.callback(driver.unmap, address, num_bytes)
    driver.set_access(address, num_bytes, device_index, writable=writable)
    return address


class IpcMemory:
    """It goes with its owner: to free it while another process maps it is undefined."""

    def __init__(self, driver: Driver, num_bytes: int) -> None:
        self.num_bytes = num_bytes
        self._driver = driver
        self.address = driver.allocate(num_bytes)
        self._is_open = True

    def offer(self) -> Offer:
        return Offer(ipc_handle=self._driver.ipc_handle(self.address))

    def unmap(self) -> None:
        """The address is the memory: it stays."""

    def close(self) -> None:
        if self._is_open:
            self._is_open = False
            self._driver.free(self.address)


ALLOCATE: dict[Transport, Callable[[Driver, int, int], OwnedMemory]] = {
    Transport.VMM: VmmMemory,
    Transport.IPC: lambda driver, _device_index, num_bytes: IpcMemory(driver, num_bytes),
}


def allocate(transport: Transport, driver: Driver, device_index: int, num_bytes: int) -> OwnedMemory:
    """On the current context's device, which `device_index` names. Raises: CudaError."""
    return ALLOCATE[transport](driver, device_index, num_bytes)
