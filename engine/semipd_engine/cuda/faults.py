"""What a failed call of the driver means for the memory server: does the user act, or can waiting help? Pure."""

from __future__ import annotations

from collections.abc import Mapping

from semipd_core.errors import InvalidSpec, NotReadyYet
from semipd_engine.cuda.devices import FIELD, GpuMissing
from semipd_engine.cuda.driver import NO_LIBRARY, CudaError

RETRY_AFTER_S = 1.0
_NO_DRIVER = (
    "CUDA without an NVIDIA driver",
    "a machine with the driver and the package cuda-bindings; or CPU",
)
_WRONG_DRIVER = (
    "CUDA with a driver that does not fit",
    "a driver of one version on host and container, new enough",
)
_NO_GPU = ("CUDA without a GPU", "a GPU that CUDA shows to this process; or CPU")

# Given and allowed. Whatever is not here may pass: no memory just now, an MPS server or a fabric that starts, a busy GPU; and a
# lost GPU, which comes back by a reset: the agent, which asks NVML, holds starts until then.
LASTING: Mapping[str, tuple[str, str]] = {
    NO_LIBRARY: _NO_DRIVER,
    "CUDA_ERROR_STUB_LIBRARY": _NO_DRIVER,
    "CUDA_ERROR_INSUFFICIENT_DRIVER": _WRONG_DRIVER,
    "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH": _WRONG_DRIVER,
    "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE": _WRONG_DRIVER,
    "CUDA_ERROR_NO_DEVICE": _NO_GPU,
    "CUDA_ERROR_INVALID_DEVICE": _NO_GPU,
}


def classify(error: CudaError, gpu: str | None) -> InvalidSpec | NotReadyYet:
    """An InvalidSpec if the user must change something, GpuMissing if that holds for a first start alone; else NotReadyYet."""
    where = gpu or "the GPU"
    if error.code not in LASTING:
        return NotReadyYet(f"{where}: {error}", RETRY_AFTER_S)
    given, allowed = LASTING[error.code]
    kind = GpuMissing if (given, allowed) == _NO_GPU else InvalidSpec
    return kind(FIELD, f"{given} ({where}: {error})", allowed)
