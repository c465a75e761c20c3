"""What a step needs of the device beside kernels: a stream, pinned memory, results on their way to the host, graphs."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

import torch
from torch import Tensor

from semipd_engine.cuda_model.graphs import CudaStepGraphs, StepGraphs

NS_PER_MS = 1e6


class Arrival(Protocol):
    """A copy to the host that is under way."""

    def is_done(self) -> bool: ...

    def wait(self) -> None:
        """Until the host's copy is whole; sleeps, does not spin."""

    def compute_ns(self) -> int:
        """From the step's mark to the end of its kernels, on the device's clock; after `wait`."""


class StepDevice(Protocol):
    @property
    def torch_device(self) -> torch.device: ...

    @property
    def graphs(self) -> StepGraphs: ...

    def stream(self) -> AbstractContextManager[object]:
        """Everything launched inside goes to the step's stream, in order."""

    def host_buffer(self, num_bytes: int) -> Tensor:
        """(num_bytes) uint8 that the device copies from and to without the host's help."""

    def mark(self) -> object:
        """This point of the stream, for `Arrival.compute_ns` and `wait`."""

    def wait(self, mark: object) -> None:
        """Until the device has come to it."""

    def download(self, source: Tensor, target: Tensor, mark: object) -> Arrival:
        """Copy to a host buffer beside the steps that follow; `source` must not change until it has arrived."""

    def synchronize(self) -> None:
        """Until nothing is under way."""


class CudaStepDevice:
    """One GPU. stream: the step's, a new one by default; one confined to some SMs confines its steps."""

    def __init__(self, index: int, stream: torch.cuda.Stream | None = None) -> None:
        self.torch_device = torch.device("cuda", index)
        self._stream = stream or torch.cuda.Stream(self.torch_device)
        self._copies = torch.cuda.Stream(self.torch_device)
        self.graphs = CudaStepGraphs(self._stream)

    def stream(self) -> AbstractContextManager[object]:
        return torch.cuda.stream(self._stream)

    def host_buffer(self, num_bytes: int) -> Tensor:
        return torch.empty(num_bytes, dtype=torch.uint8, pin_memory=True)

    def mark(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record(self._stream)
        return event

    def wait(self, mark: object) -> None:
        assert isinstance(mark, torch.cuda.Event)
        mark.synchronize()

    def download(self, source: Tensor, target: Tensor, mark: object) -> Arrival:
        assert isinstance(mark, torch.cuda.Event)
        computed = self.mark()
        self._copies.wait_event(computed)
        with torch.cuda.stream(self._copies):
            target.copy_(source, non_blocking=True)
        arrived = torch.cuda.Event(blocking=True)
        arrived.record(self._copies)
        return _CudaArrival(mark, computed, arrived)

    def synchronize(self) -> None:
        torch.cuda.synchronize(self.torch_device)


class _CudaArrival:
    def __init__(
        self, started: torch.cuda.Event, computed: torch.cuda.Event, arrived: torch.cuda.Event
    ) -> None:
        self._started = started
        self._computed = computed
        self._arrived = arrived

    def is_done(self) -> bool:
        return bool(self._arrived.query())

    def wait(self) -> None:
        self._arrived.synchronize()

    def compute_ns(self) -> int:
        return int(self._started.elapsed_time(self._computed) * NS_PER_MS)
