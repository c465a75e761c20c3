"""GPU facts by NVML. `pynvml` is imported on first use: without a driver everything else works.

Source: NVML API; granularity of SM shares: CUDA Programming Guide 4.6 (green contexts), by compute capability.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from semipd_agent.device.facts import DeviceUnit, Inventory, percent_step
from semipd_core.errors import DeviceError

CUDA_CORES_PER_SM = {(7, 0): 64, (7, 5): 64, (8, 0): 64}  # by compute capability; others: 128
SM_GRANULARITY = {7: 2, 8: 2}  # 9 and later: 8


class NvmlDevice:
    """All GPUs that NVML shows.

    Raises: DeviceError with the reason if NVML is absent or does not answer.
    """

    def __init__(self, nvml: ModuleType | None = None) -> None:
        self._nvml: Any = nvml if nvml is not None else _import_nvml()

    def inventory(self) -> Inventory:
        nvml = self._nvml
        try:
            nvml.nvmlInit()
        except nvml.NVMLError as error:
            raise DeviceError(f"NVML does not start: {error}; is the NVIDIA driver installed?") from error
        try:
            handles = map(nvml.nvmlDeviceGetHandleByIndex, range(nvml.nvmlDeviceGetCount()))
            return Inventory(kind="CUDA", units=[self._unit(handle) for handle in handles])
        except nvml.NVMLError as error:
            raise DeviceError(f"NVML: {error}") from error
        finally:
            nvml.nvmlShutdown()

    def _unit(self, handle: Any) -> DeviceUnit:
        nvml = self._nvml
        major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
        num_sms = self._num_sms(handle, (major, minor))
        reason = self._fault(handle)
        return DeviceUnit(
            uuid=nvml.nvmlDeviceGetUUID(handle),
            name=nvml.nvmlDeviceGetName(handle),
            num_cores=num_sms,
            memory_bytes=nvml.nvmlDeviceGetMemoryInfo(handle).total,
            percent_step=percent_step(num_sms, SM_GRANULARITY.get(major, 8)) if num_sms else 1,
            healthy=not reason,
            reason=reason,
        )

    def _num_sms(self, handle: Any, capability: tuple[int, int]) -> int | None:
        """NVML counts CUDA cores; an SM has a fixed number of them."""
        try:
            cores: int = self._nvml.nvmlDeviceGetNumGpuCores(handle)
        except self._nvml.NVMLError:
            return None
        return cores // CUDA_CORES_PER_SM.get(capability, 128)

    def _fault(self, handle: Any) -> str:
        """Uncorrected memory errors; "" where there are none or the card does not count them."""
        nvml = self._nvml
        try:
            errors = nvml.nvmlDeviceGetTotalEccErrors(
                handle, nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC
            )
        except nvml.NVMLError:
            return ""
        return f"{errors} uncorrected memory errors" if errors else ""


def _import_nvml() -> ModuleType:
    try:
        import pynvml  # noqa: PLC0415
    except ImportError as error:
        raise DeviceError("pynvml is not installed: install semipd[agent] for GPU facts") from error
    return pynvml
