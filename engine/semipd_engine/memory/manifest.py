"""What lies in an engine's arenas: one JSON line, sent beside the file descriptors."""

from __future__ import annotations

import math

from semipd_core.telemetry import Wire
from semipd_engine.model.config import ModelConfig
from semipd_engine.model.dtypes import ITEM_BYTES
from semipd_engine.model.layout import TensorEntry

CONTROL_BYTES = 4096


class Manifest(Wire, frozen=True, kw_only=True):
    model: ModelConfig
    weights: list[TensorEntry]
    weights_bytes: int
    num_blocks: int  # KV blocks, the null block 0 included
    block_tokens: int

    @property
    def max_context_tokens(self) -> int:
        return self.model.max_context_tokens

    @property
    def kv_shape(self) -> tuple[int, int, int, int, int, int]:
        """(layer, key or value, block, token in block, KV head, head_dim)."""
        model = self.model
        return (
            model.num_layers,
            2,
            self.num_blocks,
            self.block_tokens,
            model.num_kv_heads,
            model.head_dim,
        )

    @property
    def kv_bytes(self) -> int:
        return math.prod(self.kv_shape) * ITEM_BYTES[self.model.dtype]
