"""CUDA graphs of whole steps: capture once, replay for one call of the host."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Protocol

import torch


class StepGraphs(Protocol):
    """Keys are the caller's: rows, or a split of the SMs and rows."""

    def capture(self, key: Hashable, step: Callable[[], None]) -> None:
        """Keep what `step` launches. It runs here and now too; its inputs and outputs are tensors that stay where they are."""

    def replay(self, key: Hashable) -> None:
        """Launch it again on the current stream. Raises: KeyError for a key that was not captured."""


class CudaStepGraphs:
    """Graphs that share one memory pool, as no two of them run at a time: capture the largest first.

    A graph keeps the SMs of the stream that it was captured on, whatever stream it is replayed on.
    Source: CUDA Programming Guide 4.6.5.
    """

    def __init__(self, stream: torch.cuda.Stream, pool: Any = None) -> None:
        """pool: of graphs on other streams, none of which run beside these."""
        self._stream = stream
        self._pool = pool or torch.cuda.graph_pool_handle()
        self._graphs: dict[Hashable, torch.cuda.CUDAGraph] = {}

    def capture(self, key: Hashable, step: Callable[[], None]) -> None:
        # Once outside of the capture: a kernel that is compiled or loaded inside of it would end it.
        with torch.cuda.stream(self._stream):
            step()
        self._stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
            step()
        self._graphs[key] = graph

    def replay(self, key: Hashable) -> None:
        self._graphs[key].replay()
