"""GPU facts by NVML. `pynvml` is imported on first use: without a driver everything else works.

Source: NVML API; granularity of SM shares: CUDA Programming Guide 4.6 (green contexts), by compute capability.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from semipd_agent.device.facts import DeviceUnit, Inventory, percent_step
from semipd_agent.device.gpm import GpmSampler
from semipd_agent.device.nvml_calls import GpuLost, ask, import_nvml, is_lost, session
from semipd_agent.device.nvml_reading import UNCORRECTED, VOLATILE, read_gpu, read_versions
from semipd_agent.device.reading import GpuReading, Look
from semipd_agent.mps.preflight import ComputeMode, GpuSharing
from semipd_core.errors import DeviceError

CUDA_CORES_PER_SM = {(7, 0): 64, (7, 5): 64, (8, 0): 64}  # by compute capability; others: 128
SM_GRANULARITY = {7: 2, 8: 2}  # 9 and later: 8


class NvmlDevice:
    """All GPUs that NVML shows, or those that it is told to keep to.

    Raises: DeviceError with the reason if NVML is absent or does not answer.
    """

    def __init__(self, nvml: ModuleType | None = None) -> None:
        self.expected: frozenset[str] = frozenset()  # UUIDs; empty: whichever there are
        self._nvml: Any = nvml if nvml is not None else import_nvml()
        self._gpm = GpmSampler(self._nvml)

    @property
    def nvml(self) -> Any:
        """For who waits for events."""
        return self._nvml

    def keep_to(self, uuids: frozenset[str]) -> None:
        """From now on `look` and `sharing` tell of these GPUs alone; of all if empty."""
        self.expected = uuids

    def _is_ours(self, uuid: str) -> bool:
        return not self.expected or uuid in self.expected

    def inventory(self) -> Inventory:
        nvml = self._nvml
        with session(nvml):
            try:
                handles = map(nvml.nvmlDeviceGetHandleByIndex, range(nvml.nvmlDeviceGetCount()))
                return Inventory(kind="CUDA", units=[self._unit(handle) for handle in handles])
            except nvml.NVMLError as error:
                raise DeviceError(f"NVML: {error}") from error

    def look(self) -> Look:
        """All that can be read now; a GPU that does not answer is left out. Never raises for what NVML says."""
        nvml = self._nvml
        try:
            with session(nvml):
                found = self._look_at_all()
        except (DeviceError, nvml.NVMLError) as error:
            found = Look(error=str(error))
        if found.error is not None or found.is_lost:
            self._gpm.close()  # so that the next session is a new one
        return found

    def _look_at_all(self) -> Look:
        """Raises: GpuLost, nvml.NVMLError if not even the GPUs can be counted."""
        nvml = self._nvml
        units, readings, lost = [], [], False
        for index in range(nvml.nvmlDeviceGetCount()):
            try:
                handle = nvml.nvmlDeviceGetHandleByIndex(index)
                if not self._is_ours(nvml.nvmlDeviceGetUUID(handle)):
                    continue
                reading = self._read(handle)
                units.append(self._unit(handle))
                readings.append(reading)
            except GpuLost:
                lost = True
            except nvml.NVMLError as error:
                lost = lost or is_lost(error)
        if self.expected and self.expected <= {unit.uuid for unit in units}:
            lost = False  # it is somebody else's: what is lost does not always tell its UUID
        return Look(units=tuple(units), readings=tuple(readings), versions=read_versions(nvml), is_lost=lost)

    def _read(self, handle: Any) -> GpuReading:
        uuid = self._nvml.nvmlDeviceGetUUID(handle)
        return read_gpu(self._nvml, handle, self._gpm.activity(uuid, handle))

    def close(self) -> None:
        self._gpm.close()

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

    def sharing(self) -> list[GpuSharing]:
        """Who may use each GPU, and who does so through MPS.

        Raises: DeviceError.
        """
        nvml = self._nvml
        with session(nvml):
            try:
                return self._share_all(nvml.nvmlDeviceGetCount())
            except nvml.NVMLError as error:
                raise DeviceError(f"NVML: {error}; is the NVIDIA driver installed?") from error

    def _share_all(self, count: int) -> list[GpuSharing]:
        """Raises: nvml.NVMLError, GpuLost, but for GPUs that are not ours."""
        nvml, found, failure = self._nvml, [], None
        for index in range(count):
            try:
                handle = nvml.nvmlDeviceGetHandleByIndex(index)
                if self._is_ours(nvml.nvmlDeviceGetUUID(handle)):
                    found.append(self._gpu_sharing(handle))
            except (nvml.NVMLError, GpuLost) as error:
                failure = error
        is_whole = self.expected and self.expected <= {gpu.uuid for gpu in found}
        if failure is not None and not is_whole:
            raise failure
        return found

    def _gpu_sharing(self, handle: Any) -> GpuSharing:
        nvml = self._nvml
        modes = {
            nvml.NVML_COMPUTEMODE_DEFAULT: ComputeMode.DEFAULT,
            nvml.NVML_COMPUTEMODE_PROHIBITED: ComputeMode.PROHIBITED,
            nvml.NVML_COMPUTEMODE_EXCLUSIVE_PROCESS: ComputeMode.EXCLUSIVE_PROCESS,
        }
        mode = nvml.nvmlDeviceGetComputeMode(handle)
        clients = ask(nvml, "nvmlDeviceGetMPSComputeRunningProcesses", handle) or ()
        return GpuSharing(
            uuid=nvml.nvmlDeviceGetUUID(handle),
            compute_mode=modes.get(mode, f"mode {mode}"),
            mps_pids=tuple(sorted(client.pid for client in clients)),
        )

    def _num_sms(self, handle: Any, capability: tuple[int, int]) -> int | None:
        """NVML counts CUDA cores; an SM has a fixed number of them."""
        cores: int | None = ask(self._nvml, "nvmlDeviceGetNumGpuCores", handle)
        return None if cores is None else cores // CUDA_CORES_PER_SM.get(capability, 128)

    def _fault(self, handle: Any) -> str:
        """Uncorrected memory errors; "" where there are none or the card does not count them."""
        errors = ask(self._nvml, "nvmlDeviceGetTotalEccErrors", handle, UNCORRECTED, VOLATILE)
        return f"{errors} uncorrected memory errors" if errors else ""
