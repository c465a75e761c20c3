"""Which device is in this machine, asked of NVML."""

from __future__ import annotations

import importlib
from typing import Any

from semipd_core.api.fields import Device


def detect_device() -> Device:
    """CUDA if NVML finds a GPU, else CPU: also where there is no driver or no NVML package."""
    try:
        nvml: Any = importlib.import_module("pynvml")
    except ImportError:
        return Device.CPU
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return Device.CPU
    try:
        return Device.CUDA if nvml.nvmlDeviceGetCount() > 0 else Device.CPU
    finally:
        nvml.nvmlShutdown()
