"""Tensors over the arenas in device memory, by the same manifest as on CPU."""

from __future__ import annotations

import math
from typing import Protocol

from torch import Tensor

from semipd_engine.memory.manifest import Manifest
from semipd_engine.model.arenas import TORCH_TYPES


class DeviceArenas(Protocol):
    """What a lane maps of its engine's memory. weights, kv: (bytes) uint8 on the device."""

    @property
    def manifest(self) -> Manifest: ...

    @property
    def weights(self) -> Tensor: ...

    @property
    def kv(self) -> Tensor: ...


def weight_tensors(arenas: DeviceArenas) -> dict[str, Tensor]:
    """Weights by the names of `semipd_engine.model.layout`, without a copy."""
    return {
        entry.name: arenas.weights[entry.offset : entry.offset + entry.num_bytes]
        .view(TORCH_TYPES[entry.dtype])
        .view(entry.shape)
        for entry in arenas.manifest.weights
    }


def kv_tensor(arenas: DeviceArenas) -> Tensor:
    """The cache, of `Manifest.kv_shape`, without a copy."""
    manifest = arenas.manifest
    dtype = TORCH_TYPES[manifest.model.dtype]
    num_bytes = math.prod(manifest.kv_shape) * dtype.itemsize
    return arenas.kv[:num_bytes].view(dtype).view(manifest.kv_shape)
