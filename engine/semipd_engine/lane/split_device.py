"""One role's device in a duplex lane: each split has its stream, and its graphs where the role is confined.

To the executor it is one `StepDevice`: what it launches goes to the split that `SplitStreams.select` has chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from semipd_core.sm_splits import SmSplit, decode_graph_key
from semipd_engine.cuda_model.device import Arrival, StepDevice
from semipd_engine.cuda_model.graphs import StepGraphs
from semipd_engine.lane.split_streams import SplitStreams, Stream


class SplitGraphs:
    """A graph for each bucket where the role has all SMs, else one for each split and bucket."""

    def __init__(self, streams: SplitStreams, graphs_on: Callable[[Stream], StepGraphs]) -> None:
        self._streams = streams
        self._graphs = {split: graphs_on(stream) for split, stream in streams.by_split.items()}
        self._keys: dict[Hashable, SmSplit] = {}  # -> the split whose graphs hold it

    def capture(self, key: Hashable, step: Callable[[], None]) -> None:
        """key: rows."""
        assert isinstance(key, int), key
        for split, graphs in self._graphs.items():
            graph_key = decode_graph_key(split, key)
            if graph_key not in self._keys:
                graphs.capture(graph_key, step)
                self._keys[graph_key] = split

    def replay(self, key: Hashable) -> None:
        """Raises: KeyError for a key that was not captured."""
        assert isinstance(key, int), key
        graph_key = decode_graph_key(self._streams.split, key)
        self._graphs[self._keys[graph_key]].replay(graph_key)


class SplitStepDevice:
    """`StepDevice` over those of the single streams."""

    def __init__(
        self,
        streams: SplitStreams,
        device_on: Callable[[Stream], StepDevice],
        graphs_on: Callable[[Stream], StepGraphs],
    ) -> None:
        self._streams = streams
        made: dict[Stream, StepDevice] = {}
        for stream in streams.by_split.values():
            if stream not in made:
                made[stream] = device_on(stream)
        self._devices = made
        self.graphs: StepGraphs = SplitGraphs(streams, graphs_on)

    @property
    def _current(self) -> StepDevice:
        return self._devices[self._streams.current]

    @property
    def torch_device(self) -> torch.device:
        return self._current.torch_device

    def stream(self) -> AbstractContextManager[object]:
        return self._current.stream()

    def host_buffer(self, num_bytes: int) -> Tensor:
        return self._current.host_buffer(num_bytes)

    def mark(self) -> object:
        return self._current.mark()

    def wait(self, mark: object) -> None:
        self._current.wait(mark)

    def download(self, source: Tensor, target: Tensor, mark: object) -> Arrival:
        return self._current.download(source, target, mark)

    def synchronize(self) -> None:
        self._current.synchronize()
