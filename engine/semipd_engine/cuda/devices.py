"""A GPU by its UUID: ordinals differ between processes, since an MPS daemon renumbers the devices of its clients."""

from __future__ import annotations

from semipd_core.errors import DeviceError, InvalidSpec
from semipd_engine.cuda.driver import Driver

FIELD = "spec.resources.device"
ORDINAL = "#"  # before the number of a GPU, where its UUID was not known in time


class GpuMissing(InvalidSpec):
    """CUDA does not show the GPU: for the user at a first start; for who had it before, lost, and it may come back."""


def list_gpus(driver: Driver) -> list[str]:
    """UUIDs in the order of this process's ordinals. Raises: CudaError."""
    return [driver.uuid(index) for index in range(driver.count())]


def find_device(driver: Driver, gpu: str | None) -> int:
    """The ordinal of `gpu` in this process; of None: 0.

    Raises: GpuMissing, CudaError.
    """
    return index_of(gpu, list_gpus(driver))


def find_device_again(driver: Driver, gpu: str | None) -> int:
    """As `find_device`, for a lane: the memory server has found that GPU before. Raises: DeviceError if it is not there."""
    try:
        return find_device(driver, gpu)
    except GpuMissing as error:
        raise DeviceError(str(error)) from error


def index_of(gpu: str | None, found: list[str]) -> int:
    """Raises: GpuMissing."""
    if not found:
        raise GpuMissing(FIELD, "CUDA without a GPU", "a GPU that CUDA shows to this process")
    if gpu is None:
        return 0
    if gpu.startswith(ORDINAL) and int(gpu.removeprefix(ORDINAL)) < len(found):
        return int(gpu.removeprefix(ORDINAL))
    if gpu not in found:
        raise GpuMissing(FIELD, f"{gpu}, which is not there", "one of " + ", ".join(found))
    return found.index(gpu)
