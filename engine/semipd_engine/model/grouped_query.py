"""Grouped-query attention of one layer, with the biases and norms that some families have."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor

from semipd_engine.model import attention
from semipd_engine.model.batch import Batch
from semipd_engine.model.config import ModelConfig
from semipd_engine.model.projection import build_projection
from semipd_engine.model.rotary import rotate


class GroupedQueryAttention:
    def __init__(self, config: ModelConfig, weights: Mapping[str, Tensor], kv: Tensor) -> None:
        """weights: of this layer; kv: (2, block, block_tokens, kv_head, dim)."""
        self._config = config
        self._kv = kv
        # ((heads + 2 * kv_heads) * dim, hidden); halves of Q and K heads interleaved
        self._qkv = build_projection(weights, "qkv")
        self._bias = weights["qkv_bias"] if config.qkv_bias else None
        self._norms = (weights["q_norm"], weights["k_norm"]) if config.qk_norm else None  # (dim) each

    def mix(self, hidden: Tensor, rotation: Tensor, batch: Batch) -> Tensor:
        """hidden: (tokens, hidden); rotation: (tokens, 1, dim / 2) complex. Returns (tokens, heads * dim)."""
        config = self._config
        qkv = self._qkv.apply(hidden, self._bias)
        heads = qkv.view(len(qkv), -1, config.head_dim)
        query, key = heads.split_with_sizes([config.num_heads, config.num_kv_heads, config.num_kv_heads], 1)[
            :2
        ]
        if self._norms is not None:
            for part, weight in zip((query, key), self._norms, strict=True):
                part.copy_(F.rms_norm(part, (config.head_dim,), weight, config.rms_norm_eps))
        rotate(heads[:, : config.num_heads + config.num_kv_heads], rotation)
        new = heads[:, config.num_heads :].view(len(qkv), 2, -1)
        attention.store(self._kv, batch.kv_slots, new)
        return attention.attend(query, new, self._kv, batch)
