"""Device memory of another process, mapped into this one."""

from __future__ import annotations

from contextlib import ExitStack

from semipd_engine.cuda.driver import Driver
from semipd_engine.cuda.owned import map_handle


def import_vmm(
    driver: Driver, undo: ExitStack, fd: int, num_bytes: int, device_index: int, *, writable: bool
) -> int:
    """An address. `num_bytes` as allocated. The descriptor stays the caller's and may be closed at once.

    Raises: CudaError.
    """
    handle = driver.import_fd(fd)
    try:
        return map_handle(driver, undo, handle, num_bytes, device_index, writable=writable)
    finally:
        driver.release(handle)  # the mapping keeps the memory


def import_ipc(driver: Driver, undo: ExitStack, ipc_handle: bytes) -> int:
    """An address; always writable, and once per process. Raises: CudaError."""
    address = driver.open_ipc(ipc_handle)
    undo.callback(driver.close_ipc, address)
    return address
