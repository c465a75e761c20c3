"""How a lane on a GPU ends when the device fails it: an exit code, and one line that says what and why.

Whatever a fault left in the process's context is gone with the process; the agent starts another lane.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import structlog
import torch

from semipd_core.engine_config import EngineConfig
from semipd_core.errors import DeviceError
from semipd_shell.files import write_atomically

EXIT_DEVICE_ERROR = 74  # the driver, a kernel or the card failed
EXIT_OUT_OF_MEMORY = 76  # the GPU has too little memory for this lane


_MARKS = ("CUDA", "NVIDIA", "NCCL")  # in a RuntimeError of torch or Triton


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFault:
    exit_code: int
    event: str  # of the log line
    error: str  # its first line
    advice: str | None = None


def judge(error: BaseException) -> DeviceFault | None:
    """None for what is no fault of a device: a defect, to be seen with its traceback."""
    if isinstance(error, torch.OutOfMemoryError):
        return DeviceFault(
            exit_code=EXIT_OUT_OF_MEMORY,
            event="out of GPU memory",
            error=_first_line(error),
            advice="a smaller spec.resources.kvCache leaves more for lanes; so do fewer rows and smaller prefill steps",
        )
    if isinstance(error, RuntimeError) and "C compiler" in str(error):
        return DeviceFault(
            exit_code=EXIT_DEVICE_ERROR,
            event="no C compiler",
            error=_first_line(error),
            advice="gcc and libc6-dev, or CC: Triton builds the launcher of each kernel at its first run",
        )
    is_cuda = isinstance(error, (DeviceError, torch.AcceleratorError)) or (
        isinstance(error, RuntimeError) and any(mark in str(error) for mark in _MARKS)
    )
    if not is_cuda:
        return None
    return DeviceFault(exit_code=EXIT_DEVICE_ERROR, event="GPU fault", error=_first_line(error))


def tell(fault: DeviceFault, config: EngineConfig, logger: structlog.stdlib.BoundLogger) -> int:
    """The exit code; the log has the fault, and `lane-problem` one that every next lane would meet too. Raises: OSError."""
    logger.error(fault.event, error=fault.error, advice=fault.advice, exit_code=fault.exit_code)
    if fault.exit_code == EXIT_OUT_OF_MEMORY:
        said = f"{fault.error} ({fault.advice})"
        write_atomically(Path(config.lane_problem_file), said.encode())
    return fault.exit_code


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
