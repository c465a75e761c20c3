"""What lies in an engine's arenas: one JSON line, sent beside the file descriptors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import StrEnum

from semipd_core.telemetry import Wire
from semipd_engine.model.config import ModelConfig
from semipd_engine.model.dtypes import ITEM_BYTES
from semipd_engine.model.layout import TensorEntry

CONTROL_BYTES = 4096


class Transport(StrEnum):
    """How the arenas of weights and KV reach another process. The control page is a memfd always."""

    MEMFD = "memfd"  # host memory
    VMM = "vmm"  # device memory, exported as descriptors
    IPC = "ipc"  # device memory, by legacy CUDA IPC handles


# The descriptors that come with the manifest, in their order.
DESCRIPTORS: Mapping[Transport, tuple[str, ...]] = {
    Transport.MEMFD: ("weights", "kv", "control"),
    Transport.VMM: ("weights", "kv", "control"),
    Transport.IPC: ("control",),
}


class Manifest(Wire, frozen=True, kw_only=True):
    model: ModelConfig  # as the rank sees it: with its own heads and MLP
    weights: list[TensorEntry]
    weights_bytes: int
    num_blocks: int  # KV blocks, the null block 0 included
    block_tokens: int
    transport: Transport = Transport.MEMFD
    gpu: str | None = None  # UUID of the GPU that holds the arenas
    granularity_bytes: int = 1  # of VMM: an arena is mapped in multiples of it
    weights_ipc: bytes = b""  # of IPC: 64 bytes each
    kv_ipc: bytes = b""

    @property
    def max_context_tokens(self) -> int:
        return self.model.max_context_tokens

    @property
    def kv_shape(self) -> tuple[int, ...]:
        """(layer, *`ModelConfig.kv_layer_shape`)."""
        return (self.model.num_layers, *self.model.kv_layer_shape(self.num_blocks, self.block_tokens))

    @property
    def kv_bytes(self) -> int:
        return math.prod(self.kv_shape) * ITEM_BYTES[self.model.dtype]
