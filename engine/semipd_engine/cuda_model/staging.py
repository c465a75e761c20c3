"""A step's inputs on their way to the device: one buffer of fixed size in pinned memory, one copy, tensors that stay in place.

Each step in flight has a host buffer of its own: the copy of the one before may still be reading its buffer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from semipd_engine.cuda_model.device import StepDevice

ALIGNMENT_BYTES = 64
Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """counted_by: the capacity that says how many values there are."""

    name: str
    dtype: torch.dtype
    counted_by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """The largest step."""

    tokens: int
    rows: int
    deltas: int  # of block tables

    def count(self, name: str) -> int:
        return {"tokens": self.tokens, "rows": self.rows, "starts": self.rows + 1, "deltas": self.deltas}[
            name
        ]


FIELDS = (
    Field(name="token_ids", dtype=torch.int64, counted_by="tokens"),
    Field(name="positions", dtype=torch.int64, counted_by="tokens"),
    Field(name="kv_slots", dtype=torch.int64, counted_by="tokens"),
    Field(name="slots", dtype=torch.int64, counted_by="rows"),
    Field(name="contexts", dtype=torch.int32, counted_by="rows"),
    Field(name="chunk_contexts", dtype=torch.int32, counted_by="rows"),
    Field(name="token_starts", dtype=torch.int32, counted_by="starts"),
    Field(name="sampled", dtype=torch.int64, counted_by="rows"),
    Field(name="sampled_slots", dtype=torch.int64, counted_by="rows"),
    Field(name="temperatures", dtype=torch.float64, counted_by="rows"),
    Field(name="top_ps", dtype=torch.float64, counted_by="rows"),
    Field(name="top_ks", dtype=torch.int64, counted_by="rows"),
    Field(name="seeds", dtype=torch.int64, counted_by="rows"),
    Field(name="sample_positions", dtype=torch.int64, counted_by="rows"),
    Field(name="delta_places", dtype=torch.int64, counted_by="deltas"),
    Field(name="delta_blocks", dtype=torch.int32, counted_by="deltas"),
)


class StagedInputs:
    """Device tensors by the names of FIELDS, each of its whole capacity.

    num_buffers: steps that may be in flight; the caller begins no step before the one so many steps ago has ended.
    """

    def __init__(self, capacity: Capacity, device: StepDevice, num_buffers: int) -> None:
        self.capacity = capacity
        places, num_bytes = _place(capacity)
        on_device = torch.zeros(num_bytes, dtype=torch.uint8, device=device.torch_device)
        self._on_device = on_device
        self._tensors = {name: _view(on_device, place) for name, place in places.items()}
        hosts = [device.host_buffer(num_bytes) for _ in range(num_buffers)]
        self._buffers = cycle(
            [(host, {name: _view(host, place).numpy() for name, place in places.items()}) for host in hosts]
        )

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def clear(self) -> None:
        """All zeros on the device: a step of them writes to the null block."""
        self._on_device.zero_()

    def upload(self, values: Mapping[str, Array], padding: Mapping[str, tuple[int, float]]) -> None:
        """Write `values`, the rest of each field up to a count with a number, and start the copy.

        padding: by the name of the field: (values in all, what fills them).
        Raises: ValueError for more values than the capacity.
        """
        host, arrays = next(self._buffers)
        for name, value in values.items():
            array = arrays[name]
            if len(value) > len(array):
                raise ValueError(f"{name}: {len(value)} values in a step; allowed: at most {len(array)}")
            array[: len(value)] = value
            count, filler = padding.get(name, (0, 0))
            array[len(value) : count] = filler
        self._on_device.copy_(host, non_blocking=True)


def _place(capacity: Capacity) -> tuple[dict[str, tuple[int, int, torch.dtype]], int]:
    """(first byte, bytes, dtype) by name, and the size of the buffer."""
    places, end = {}, 0
    for field in FIELDS:
        num_bytes = capacity.count(field.counted_by) * field.dtype.itemsize
        places[field.name] = (end, num_bytes, field.dtype)
        end += -(-num_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
    return places, end


def _view(buffer: Tensor, place: tuple[int, int, torch.dtype]) -> Tensor:
    first, num_bytes, dtype = place
    return buffer[first : first + num_bytes].view(dtype)
