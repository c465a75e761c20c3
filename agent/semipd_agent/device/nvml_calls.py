"""Asks NVML one thing at a time: what a card or driver does not support is None, a GPU that is lost raises.

Source: NVML API reference (return codes). A symbol that an older driver lacks raises NVML_ERROR_FUNCTION_NOT_FOUND, a
function that an older `pynvml` lacks is not there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from semipd_core.errors import DeviceError

GPU_IS_LOST = 15
TIMEOUT = 10
RESET_REQUIRED = 16


class GpuLost(DeviceError):
    """The GPU does not answer any more, or only after a reset."""


def import_nvml() -> ModuleType:
    try:
        import pynvml  # noqa: PLC0415
    except ImportError as error:
        raise DeviceError("pynvml is not installed: install semipd[agent] for GPU facts") from error
    return pynvml


@contextmanager
def session(nvml: Any) -> Iterator[None]:
    """NVML counts sessions; the driver's state is read anew when the last one has ended.

    Raises: DeviceError if NVML does not start.
    """
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        raise DeviceError(f"NVML does not start: {error}; is the NVIDIA driver installed?") from error
    try:
        yield
    finally:
        end_session(nvml)


def end_session(nvml: Any) -> None:
    """A driver that is gone need not be left in order."""
    try:
        nvml.nvmlShutdown()
    except nvml.NVMLError:
        return


def is_lost(error: Exception) -> bool:
    return getattr(error, "value", None) in (GPU_IS_LOST, RESET_REQUIRED)


def is_timeout(error: Exception) -> bool:
    return getattr(error, "value", None) == TIMEOUT


def ask(nvml: Any, name: str, *arguments: Any) -> Any:
    """The answer of the NVML function `name`; None where it is not supported. Raises: GpuLost."""
    function = getattr(nvml, name, None)
    if function is None:
        return None
    try:
        return function(*arguments)
    except nvml.NVMLError as error:
        if is_lost(error):
            raise GpuLost(f"{name}: {error}") from error
        return None


def code(nvml: Any, name: str) -> int | None:
    """A constant of NVML, None where this `pynvml` does not have it."""
    return getattr(nvml, name, None)
