"""How much memory a lane holds for itself: what its end would give back. Weights and KV cache are the memory server's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

STATUS = Path("/proc/self/status")


def read_host_bytes(status: Path = STATUS) -> int:
    """Anonymous pages of this process, those counted that it still shares with the zygote; 0 if nobody tells."""
    try:
        lines = status.read_text().splitlines()
    except OSError:
        return 0
    found = [line.split() for line in lines if line.startswith("RssAnon:")]
    return int(found[0][1]) << 10 if found else 0


def read_device_used_bytes(uuid: str) -> int | None:
    """Of the whole GPU, by NVML, which needs no context; None where it does not tell."""
    import pynvml  # noqa: PLC0415

    nvml: Any = pynvml
    try:
        nvml.nvmlInit()
        try:
            return int(nvml.nvmlDeviceGetMemoryInfo(nvml.nvmlDeviceGetHandleByUUID(uuid)).used)
        finally:
            nvml.nvmlShutdown()
    except nvml.NVMLError:
        return None


def device_bytes_of(before: int | None, after: int | None, reserved_bytes: int) -> int:
    """Of a lane that found `before` bytes of the GPU in use and left `after`, `reserved_bytes` by its allocator; 0: unknown.

    Who else started meanwhile counts as its own: too much, never too little.
    """
    if before is None or after is None:
        return 0
    return max(after - before, reserved_bytes)
