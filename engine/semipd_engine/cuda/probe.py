"""`python -m semipd_engine.cuda.probe ORDER`: can a process like this one map the memory of another?

It runs with a lane's isolation and does what a lane does: reads through a read-only mapping, writes through a writable one.
Its one line of output is a `ProbeAnswer`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack

import msgspec

from semipd_core.errors import SemipdError
from semipd_core.telemetry import Wire
from semipd_engine.cuda.devices import find_device
from semipd_engine.cuda.driver import Driver
from semipd_engine.cuda.host_memory import HostBuffer
from semipd_engine.cuda.imported import import_ipc, import_vmm
from semipd_engine.cuda.libcuda import Libcuda
from semipd_engine.memory.manifest import Transport

OWNER_BYTE = 0x5A  # what the owner has written everywhere
LANE_BYTE = 0xA5  # what the probe writes everywhere


class ProbeOrder(Wire, frozen=True, kw_only=True):
    transport: Transport
    gpu: str  # UUID
    num_bytes: int
    fd: int | None  # inherited
    ipc_handle: bytes


class ProbeAnswer(Wire, frozen=True, kw_only=True):
    error: str | None = None
    is_mps_client: bool | None = None


def main(argv: list[str], open_driver: Callable[[], Driver] = Libcuda) -> int:
    order = msgspec.json.decode(argv[1], type=ProbeOrder)
    is_mps_client = None
    try:
        driver = open_driver()
        driver.init()
        device_index = find_device(driver, order.gpu)
        is_mps_client = driver.is_mps_client(device_index)
        share(driver, device_index, order)
        answer = ProbeAnswer(is_mps_client=is_mps_client)
    except SemipdError as error:
        answer = ProbeAnswer(error=str(error), is_mps_client=is_mps_client)
    sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
    return 0


def share(driver: Driver, device_index: int, order: ProbeOrder) -> None:
    """Read what the owner wrote, and leave LANE_BYTE for it. Raises: CudaError, SemipdError."""
    with ExitStack() as undo:
        driver.retain_context(device_index)
        undo.callback(driver.release_context, device_index)
        if order.transport is Transport.IPC:
            address = import_ipc(driver, undo, order.ipc_handle)
            expect(driver, address, order.num_bytes, OWNER_BYTE)
        else:
            assert order.fd is not None
            read_only = import_vmm(driver, undo, order.fd, order.num_bytes, device_index, writable=False)
            expect(driver, read_only, order.num_bytes, OWNER_BYTE)
            address = import_vmm(driver, undo, order.fd, order.num_bytes, device_index, writable=True)
        driver.fill(address, LANE_BYTE, order.num_bytes)


def expect(driver: Driver, address: int, num_bytes: int, byte: int) -> None:
    """Raises: SemipdError if the memory holds anything else, CudaError."""
    buffer = HostBuffer(num_bytes)
    try:
        driver.copy_to_host(buffer.address, address, num_bytes)
        if bytes(buffer.view) != bytes([byte]) * num_bytes:
            raise SemipdError(f"the other process's writes are not seen: no 0x{byte:02x} everywhere")
    finally:
        buffer.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv))
