"""`Driver` by cuda-bindings: nothing but conversions."""

from __future__ import annotations

import ctypes
import uuid
from typing import Any

from semipd_engine.cuda.driver import CudaError, invoke, load_bindings

_NAME_BYTES = 256
IPC_HANDLE_BYTES = 64


class Libcuda:
    """Raises: CudaError if cuda-bindings are not installed; whether there is a driver, `init` tells."""

    def __init__(self, bindings: Any = None) -> None:
        self._cu: Any = bindings if bindings is not None else load_bindings()

    def init(self) -> None:
        invoke(self._cu.cuInit, 0)

    def version(self) -> int:
        return int(invoke(self._cu.cuDriverGetVersion))

    def count(self) -> int:
        return int(invoke(self._cu.cuDeviceGetCount))

    def uuid(self, device_index: int) -> str:
        found = invoke(self._cu.cuDeviceGetUuid, self._device(device_index))
        return f"GPU-{uuid.UUID(bytes=bytes(found.bytes))}"

    def name(self, device_index: int) -> str:
        found: bytes = invoke(self._cu.cuDeviceGetName, _NAME_BYTES, self._device(device_index))
        return found.rstrip(b"\0").decode()

    def compute_capability(self, device_index: int) -> tuple[int, int]:
        names = self._cu.CUdevice_attribute
        return (
            self._attribute(names.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device_index),
            self._attribute(names.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device_index),
        )

    def is_mps_client(self, device_index: int) -> bool:
        try:
            return bool(
                self._attribute(self._cu.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_MPS_ENABLED, device_index)
            )
        except CudaError as error:
            if error.code == "CUDA_ERROR_INVALID_VALUE":  # a driver before 12.4
                return False
            raise

    def can_access_peer(self, device_index: int, peer_index: int) -> bool:
        devices = (self._device(device_index), self._device(peer_index))
        return bool(invoke(self._cu.cuDeviceCanAccessPeer, *devices))

    def retain_context(self, device_index: int) -> None:
        context = invoke(self._cu.cuDevicePrimaryCtxRetain, self._device(device_index))
        invoke(self._cu.cuCtxSetCurrent, context)

    def release_context(self, device_index: int) -> None:
        invoke(self._cu.cuDevicePrimaryCtxRelease, self._device(device_index))

    def memory_info(self) -> tuple[int, int]:
        free, total = invoke(self._cu.cuMemGetInfo)
        return int(free), int(total)

    def allocate(self, num_bytes: int) -> int:
        return int(invoke(self._cu.cuMemAlloc, num_bytes))

    def free(self, address: int) -> None:
        invoke(self._cu.cuMemFree, address)

    def ipc_handle(self, address: int) -> bytes:
        handle = invoke(self._cu.cuIpcGetMemHandle, address)
        return ctypes.string_at(int(handle.getPtr()), IPC_HANDLE_BYTES)

    def open_ipc(self, handle: bytes) -> int:
        opened = self._cu.CUipcMemHandle()
        ctypes.memmove(int(opened.getPtr()), handle, IPC_HANDLE_BYTES)
        flags = self._cu.CUipcMem_flags.CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS
        return int(invoke(self._cu.cuIpcOpenMemHandle, opened, int(flags)))

    def close_ipc(self, address: int) -> None:
        invoke(self._cu.cuIpcCloseMemHandle, address)

    def granularity(self, device_index: int) -> int:
        flag = self._cu.CUmemAllocationGranularity_flags.CU_MEM_ALLOC_GRANULARITY_RECOMMENDED
        return int(invoke(self._cu.cuMemGetAllocationGranularity, self._properties(device_index), flag))

    def create(self, num_bytes: int, device_index: int) -> int:
        return int(invoke(self._cu.cuMemCreate, num_bytes, self._properties(device_index), 0))

    def release(self, handle: int) -> None:
        invoke(self._cu.cuMemRelease, handle)

    def export_fd(self, handle: int) -> int:
        return int(invoke(self._cu.cuMemExportToShareableHandle, handle, self._fd_type, 0))

    def import_fd(self, fd: int) -> int:
        return int(invoke(self._cu.cuMemImportFromShareableHandle, fd, self._fd_type))

    def reserve(self, num_bytes: int) -> int:
        return int(invoke(self._cu.cuMemAddressReserve, num_bytes, 0, 0, 0))

    def free_range(self, address: int, num_bytes: int) -> None:
        invoke(self._cu.cuMemAddressFree, address, num_bytes)

    def map(self, address: int, num_bytes: int, handle: int) -> None:
        invoke(self._cu.cuMemMap, address, num_bytes, 0, handle, 0)

    def unmap(self, address: int, num_bytes: int) -> None:
        invoke(self._cu.cuMemUnmap, address, num_bytes)

    def set_access(self, address: int, num_bytes: int, device_index: int, *, writable: bool) -> None:
        flags = self._cu.CUmemAccess_flags
        access = self._cu.CUmemAccessDesc()
        access.location = self._location(device_index)
        access.flags = (
            flags.CU_MEM_ACCESS_FLAGS_PROT_READWRITE if writable else flags.CU_MEM_ACCESS_FLAGS_PROT_READ
        )
        invoke(self._cu.cuMemSetAccess, address, num_bytes, [access], 1)

    def copy_to_device(self, address: int, host_address: int, num_bytes: int) -> None:
        invoke(self._cu.cuMemcpyHtoD, address, host_address, num_bytes)

    def copy_to_host(self, host_address: int, address: int, num_bytes: int) -> None:
        invoke(self._cu.cuMemcpyDtoH, host_address, address, num_bytes)

    def fill(self, address: int, byte: int, num_bytes: int) -> None:
        invoke(self._cu.cuMemsetD8, address, byte, num_bytes)
        invoke(self._cu.cuCtxSynchronize)

    @property
    def _fd_type(self) -> Any:
        return self._cu.CUmemAllocationHandleType.CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR

    def _device(self, device_index: int) -> Any:
        return invoke(self._cu.cuDeviceGet, device_index)

    def _attribute(self, attribute: Any, device_index: int) -> int:
        return int(invoke(self._cu.cuDeviceGetAttribute, attribute, self._device(device_index)))

    def _location(self, device_index: int) -> Any:
        location = self._cu.CUmemLocation()
        location.type = self._cu.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
        location.id = device_index
        return location

    def _properties(self, device_index: int) -> Any:
        properties = self._cu.CUmemAllocationProp()
        properties.type = self._cu.CUmemAllocationType.CU_MEM_ALLOCATION_TYPE_PINNED
        properties.requestedHandleTypes = self._fd_type
        properties.location = self._location(device_index)
        return properties
