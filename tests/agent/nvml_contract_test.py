"""The fake against the real `pynvml`, as far as that goes without a driver: names, structures, and what a missing driver does.

A name that is misspelt would be taken for one that the driver does not support, so each must be there.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import pynvml
import pytest
from fake_nvml import GPU_IS_LOST, NOT_SUPPORTED, TIMEOUT, XID_EVENTS, build

from semipd_agent.device import gpm, nvml_calls, nvml_reading
from semipd_agent.device.nvml import NvmlDevice
from semipd_agent.device.xid_events import _key


@pytest.mark.parametrize("name", sorted(vars(build(Path("absent")))))
def test_pynvml_has_what_the_fake_has(name: str) -> None:
    assert hasattr(pynvml, name)


def test_numbers_are_those_of_nvml() -> None:
    assert (nvml_calls.GPU_IS_LOST, nvml_calls.TIMEOUT, nvml_calls.RESET_REQUIRED) == (
        pynvml.NVML_ERROR_GPU_IS_LOST,
        pynvml.NVML_ERROR_TIMEOUT,
        pynvml.NVML_ERROR_RESET_REQUIRED,
    )
    assert (
        pynvml.NVML_ERROR_GPU_IS_LOST,
        pynvml.NVML_ERROR_TIMEOUT,
        pynvml.NVML_ERROR_NOT_SUPPORTED,
        pynvml.nvmlEventTypeXidCriticalError,
    ) == (GPU_IS_LOST, TIMEOUT, NOT_SUPPORTED, XID_EVENTS)
    assert gpm.METRICS == (
        pynvml.NVML_GPM_METRIC_SM_UTIL,
        pynvml.NVML_GPM_METRIC_ANY_TENSOR_UTIL,
        pynvml.NVML_GPM_METRIC_DRAM_BW_UTIL,
    )
    assert (nvml_reading.CLOCK_SM, nvml_reading.CLOCK_MEMORY, nvml_reading.TEMPERATURE_GPU) == (
        pynvml.NVML_CLOCK_SM,
        pynvml.NVML_CLOCK_MEM,
        pynvml.NVML_TEMPERATURE_GPU,
    )


@pytest.mark.parametrize(("name", "bit"), nvml_reading.THROTTLE_BITS.items())
def test_throttle_reasons_are_those_of_nvml(name: str, bit: int) -> None:
    assert getattr(pynvml, f"nvmlClocksEventReason{name}") == bit


def test_lost_and_late_are_told_apart_by_the_errors_of_pynvml() -> None:
    assert nvml_calls.is_lost(pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST))
    assert nvml_calls.is_timeout(pynvml.NVMLError(pynvml.NVML_ERROR_TIMEOUT))
    assert not nvml_calls.is_lost(pynvml.NVMLError(pynvml.NVML_ERROR_UNKNOWN))


def test_a_pair_of_samples_fits_the_structure_of_pynvml() -> None:
    request = pynvml.c_nvmlGpmMetricsGet_t()
    request.sample1 = request.sample2 = pynvml.c_nvmlGpmSample_t()
    for index, metric in enumerate(gpm.METRICS):
        request.metrics[index].metricId = metric
    assert [request.metrics[index].nvmlReturn for index in range(len(gpm.METRICS))] == [0, 0, 0]


def test_two_handles_of_one_gpu_are_one() -> None:
    gpu = (ctypes.c_char * 8)()
    first, second = (ctypes.cast(gpu, pynvml.c_nvmlDevice_t) for _ in range(2))
    assert _key(first) == _key(second) == ctypes.addressof(gpu)
    assert first != second


def test_a_machine_without_a_driver_is_told_and_raises_nothing() -> None:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        assert (NvmlDevice().look().error or "").startswith("NVML does not start: ")
    else:
        pynvml.nvmlShutdown()
        pytest.skip("there is a driver here")
