"""GPU activity by GPM: each look takes one sample and compares it with that of the look before.

Source: NVML API reference, "GPM Functions" (Hopper and later; a pair of samples, at least 100 ms apart). The figures are of
the whole GPU: what a lane does is told by the lane.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from semipd_agent.device.nvml_calls import GpuLost, ask, end_session

SM_UTIL, ANY_TENSOR_UTIL, DRAM_BW_UTIL = 2, 5, 10
METRICS = (SM_UTIL, ANY_TENSOR_UTIL, DRAM_BW_UTIL)
METRICS_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Activity:
    """Percent, means between two looks."""

    has_gpm: bool = False
    sm_percent: float | None = None
    tensor_percent: float | None = None
    dram_percent: float | None = None


class GpmSampler:
    """Keeps NVML open, and one sample per GPU, from the first sample to `close`."""

    def __init__(self, nvml: Any) -> None:
        self._nvml = nvml
        self._samples: dict[str, Any] = {}
        self._is_open = False

    def activity(self, uuid: str, handle: Any) -> Activity:
        """Raises: GpuLost."""
        support = ask(self._nvml, "nvmlGpmQueryDeviceSupport", handle)
        if support is None or not support.isSupportedDevice:
            return Activity()
        self._open()
        new = self._take(handle)
        if new is None:
            return Activity(has_gpm=True)
        old = self._samples.pop(uuid, None)
        self._samples[uuid] = new
        if old is None:
            return Activity(has_gpm=True)
        try:
            return self._compare(old, new)
        finally:
            self._free(old)

    def _open(self) -> None:
        if not self._is_open:
            self._nvml.nvmlInit()
            self._is_open = True

    def _take(self, handle: Any) -> Any | None:
        sample = ask(self._nvml, "nvmlGpmSampleAlloc")
        if sample is None:
            return None
        try:
            if ask(self._nvml, "nvmlGpmSampleGet", handle, sample) is not None:
                return sample
        except GpuLost:
            self._free(sample)
            raise
        self._free(sample)
        return None

    def _compare(self, old: Any, new: Any) -> Activity:
        """A metric that alone failed is None."""
        request = self._nvml.c_nvmlGpmMetricsGet_t()
        request.version, request.numMetrics = METRICS_VERSION, len(METRICS)
        request.sample1, request.sample2 = old, new
        for index, metric in enumerate(METRICS):
            request.metrics[index].metricId = metric
        if ask(self._nvml, "nvmlGpmMetricsGet", request) is None:
            return Activity(has_gpm=True)
        answers = (request.metrics[index] for index in range(len(METRICS)))
        sm, tensor, dram = (answer.value if answer.nvmlReturn == 0 else None for answer in answers)
        return Activity(has_gpm=True, sm_percent=sm, tensor_percent=tensor, dram_percent=dram)

    def _free(self, sample: Any) -> None:
        try:
            self._nvml.nvmlGpmSampleFree(sample)
        except self._nvml.NVMLError:
            return

    def close(self) -> None:
        """The next sample is a first one again."""
        for sample in self._samples.values():
            self._free(sample)
        self._samples.clear()
        if self._is_open:
            self._is_open = False
            end_session(self._nvml)
