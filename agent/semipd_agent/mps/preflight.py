"""May a control daemon be started on these GPUs? Pure. The compute mode is read and never changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

SUN_PATH_BYTES = 107
LONGEST_SOCKET = "/control_privileged"


class ComputeMode(StrEnum):
    DEFAULT = "DEFAULT"
    PROHIBITED = "PROHIBITED"
    EXCLUSIVE_PROCESS = "EXCLUSIVE_PROCESS"


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuSharing:
    """`mps_pids`: processes that use the GPU through any MPS server, in the host's PID namespace."""

    uuid: str
    compute_mode: str  # a ComputeMode, or what NVML says instead
    mps_pids: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """`reason` is CamelCase, for conditions and metrics."""

    reason: str
    message: str


def refuse(
    gpus: Sequence[GpuSharing],
    foreign_server_pids: Sequence[int],
    pipe_directory: str,
    allowed_modes: Sequence[ComputeMode] = (ComputeMode.DEFAULT,),
) -> Refusal | None:
    """`foreign_server_pids`: MPS servers that this process sees and that use another pipe directory."""
    longest = pipe_directory + LONGEST_SOCKET
    if len(longest.encode()) > SUN_PATH_BYTES:
        message = f"pipe directory: got {pipe_directory!r}, allowed: at most {SUN_PATH_BYTES - len(LONGEST_SOCKET)} bytes"
        return Refusal(reason="PathTooLong", message=message)
    if foreign_server_pids:
        pids = ", ".join(map(str, foreign_server_pids))
        return Refusal(
            reason="ForeignServer",
            message=f"nvidia-cuda-mps-server of another pipe directory lives: PID {pids}",
        )
    for gpu in gpus:
        if gpu.compute_mode not in allowed_modes:
            allowed = " or ".join(allowed_modes)
            message = f"{gpu.uuid}: compute mode: got {gpu.compute_mode}, allowed: {allowed}"
            return Refusal(reason="WrongComputeMode", message=message)
        if gpu.mps_pids:
            pids = ", ".join(map(str, gpu.mps_pids))
            message = f"{gpu.uuid} is shared by another MPS server already: its clients are PID {pids}"
            return Refusal(reason="ForeignServer", message=message)
    return None
