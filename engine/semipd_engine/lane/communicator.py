"""The collectives of one lane's ranks: gloo between processes on CPUs, NCCL between GPUs.

Every lane makes its own, from a file of its own, so that a prefill group and a decode group never share a communicator and no
port is agreed on beforehand. All ranks are on one machine: sockets are those of the loopback interface.
What NCCL may take of a GPU, `semipd_engine.lane.collective_limits` says. NCCL is unproven here: no GPU has run it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

BACKENDS: Mapping[str, str] = {"cpu": "gloo", "cuda": "nccl"}
TIMEOUT_S = 300.0  # of a rank that lives and does not come; one that dies is noticed at once
# TORCH_NCCL_…: torch's threads would look into the file of the rendezvous again, which is gone by then.
_ENVIRONMENT = {
    "GLOO_SOCKET_IFNAME": "lo",
    "NCCL_SOCKET_IFNAME": "lo",
    "TORCH_NCCL_ENABLE_MONITORING": "0",
    "TORCH_NCCL_DUMP_ON_TIMEOUT": "0",
}


class Communicator:
    """Ranks (`semipd_engine.model.ranks`) over torch.distributed's default group, one to a process."""

    def __init__(self, rendezvous: str, number: int, size: int, device: torch.device) -> None:
        """Returns once all `size` ranks have come to the file `rendezvous`, which nobody had before; then it is gone.

        Raises: RuntimeError if they do not come.
        """
        self.number = number
        self.size = size
        self._device = device
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        dist.init_process_group(
            BACKENDS[device.type],
            store=dist.FileStore(rendezvous, size),  # type: ignore[attr-defined]
            rank=number,
            world_size=size,
            timeout=timedelta(seconds=TIMEOUT_S),
            device_id=device if device.type == "cuda" else None,
        )
        self.exchange(0)  # all have read the file
        if number == 0:
            Path(rendezvous).unlink(missing_ok=True)

    def sum(self, values: Tensor) -> Tensor:
        """Raises: RuntimeError if a rank has died."""
        dist.all_reduce(values)
        return values

    def gather_columns(self, values: Tensor) -> Tensor:
        """Raises: RuntimeError if a rank has died."""
        parts = [torch.empty_like(values) for _ in range(self.size)] if self.number == 0 else None
        dist.gather(values.contiguous(), parts, dst=0)
        return values if parts is None else torch.cat(parts, 1)

    def broadcast(self, values: Tensor) -> Tensor:
        """Raises: RuntimeError if a rank has died."""
        dist.broadcast(values, src=0)
        return values

    def exchange(self, value: int) -> list[int]:
        """Waits for the device. Raises: RuntimeError if a rank has died."""
        values = torch.zeros(self.size, dtype=torch.int64, device=self._device)
        values[self.number] = value
        return list(self.sum(values).tolist())
