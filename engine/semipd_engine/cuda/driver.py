"""The CUDA driver as the engine sees it: plain numbers in, plain numbers out, and one error that says which call failed.

`cuda.bindings` is imported on first use, so that a machine without libcuda imports this module. No torch: the memory server
comes here too.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any, Protocol

from semipd_core.errors import DeviceError

NO_LIBRARY = "NO_LIBRARY"  # beside the driver's own names of results: libcuda or its bindings are absent
_NO_LIBRARY_MEANING = "the NVIDIA driver's library libcuda.so.1 or the package cuda-bindings is not there"


class CudaError(DeviceError):
    """`call` answered `code` (`CUDA_ERROR_…`, or NO_LIBRARY); `meaning` is the driver's own sentence."""

    def __init__(self, call: str, code: str, meaning: str) -> None:
        self.call = call
        self.code = code
        self.meaning = meaning
        super().__init__(f"{call}: {code}: {meaning}")


@functools.cache
def load_bindings() -> Any:
    """The module `cuda.bindings.driver`. It is not proven yet that there is a libcuda: the first call shows that.

    Raises: CudaError NO_LIBRARY.
    """
    try:
        return importlib.import_module("cuda.bindings.driver")
    except ImportError as error:
        raise CudaError("import cuda.bindings", NO_LIBRARY, f"{_NO_LIBRARY_MEANING} ({error})") from error


def check(result: tuple[Any, ...], call: str) -> Any:
    """What `call` of the bindings returned beside its status: nothing, one value, or a tuple of them.

    Raises: CudaError.
    """
    status, *values = result
    if int(status) != 0:
        raise CudaError(call, getattr(status, "name", str(status)), _meaning(status))
    if not values:
        return None
    return values[0] if len(values) == 1 else tuple(values)


def invoke(function: Callable[..., Any], *arguments: Any) -> Any:
    """`check(function(*arguments))`, named as the function is.

    Raises: CudaError, also where the bindings find no libcuda.
    """
    try:
        result = function(*arguments)
    except (
        RuntimeError
    ) as error:  # of cuda.pathfinder (no library) and of the bindings (no such symbol in it)
        raise CudaError(function.__name__, NO_LIBRARY, f"{_NO_LIBRARY_MEANING} ({error})") from error
    return check(result, function.__name__)


def _meaning(status: Any) -> str:
    try:
        answer, text = load_bindings().cuGetErrorString(status)
    except (RuntimeError, TypeError, CudaError):  # a code that this machine's bindings or driver do not know
        return "no meaning known"
    return str(text.decode()) if int(answer) == 0 else "no meaning known"


class Driver(Protocol):
    """The calls that shared device memory needs. Addresses and handles are integers; sizes are bytes.

    Every method raises CudaError. Source: CUDA Driver API, "Virtual Memory Management", "Memory Management".
    """

    def init(self) -> None:
        """Before anything else, once per process; not before a fork."""

    def version(self) -> int:
        """The newest CUDA that the driver speaks, 1000 * major + 10 * minor."""

    # --- devices, by their ordinal in this process ----------------------------------------------------------------

    def count(self) -> int: ...

    def uuid(self, device_index: int) -> str:
        """As NVML writes it: `GPU-…`."""

    def name(self, device_index: int) -> str: ...

    def compute_capability(self, device_index: int) -> tuple[int, int]: ...

    def is_mps_client(self, device_index: int) -> bool:
        """Whether a context on the device goes through an MPS server; False where the driver cannot tell (before 12.4)."""

    def can_access_peer(self, device_index: int, peer_index: int) -> bool:
        """Whether kernels on the one reach memory of the other, over NVLink or PCIe."""

    def retain_context(self, device_index: int) -> None:
        """The device's primary context, which torch uses too, made current to this thread."""

    def release_context(self, device_index: int) -> None: ...

    def memory_info(self) -> tuple[int, int]:
        """Free and total bytes of the current context's device."""

    # --- memory of one process, shared by legacy IPC ----------------------------------------------------------------

    def allocate(self, num_bytes: int) -> int:
        """An address."""

    def free(self, address: int) -> None: ...

    def ipc_handle(self, address: int) -> bytes:
        """64 bytes that another process of the same PID namespace can open. Of `allocate`'s memory only."""

    def open_ipc(self, handle: bytes) -> int:
        """An address; once per process."""

    def close_ipc(self, address: int) -> None: ...

    # --- memory without an address (VMM) ----------------------------------------------------------------------------

    def granularity(self, device_index: int) -> int:
        """Sizes of `create` and `map` are multiples of it."""

    def create(self, num_bytes: int, device_index: int) -> int:
        """A handle of memory that can be exported."""

    def release(self, handle: int) -> None:
        """The memory lives on while it is mapped, or an exported descriptor is open."""

    def export_fd(self, handle: int) -> int:
        """A new descriptor, the caller's to close."""

    def import_fd(self, fd: int) -> int:
        """A handle; the descriptor stays the caller's."""

    def reserve(self, num_bytes: int) -> int:
        """An address range without memory."""

    def free_range(self, address: int, num_bytes: int) -> None: ...

    def map(self, address: int, num_bytes: int, handle: int) -> None: ...

    def unmap(self, address: int, num_bytes: int) -> None: ...

    def set_access(self, address: int, num_bytes: int, device_index: int, *, writable: bool) -> None: ...

    # --- contents ---------------------------------------------------------------------------------------------------

    def copy_to_device(self, address: int, host_address: int, num_bytes: int) -> None:
        """From any host memory, which is read no more once this returns."""

    def copy_to_host(self, host_address: int, address: int, num_bytes: int) -> None: ...

    def fill(self, address: int, byte: int, num_bytes: int) -> None:
        """Done once this returns."""
