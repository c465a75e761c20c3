"""Grouped-query attention of one layer on the kernels, with the biases and norms that some families have."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from semipd_engine.cuda_model.attention_kernels import PagedAttention
from semipd_engine.cuda_model.device_batch import DeviceBatch
from semipd_engine.cuda_model.projection import build_projection
from semipd_engine.kernels.rope_store import rotate_and_store
from semipd_engine.model.config import ModelConfig


class GroupedQueryAttention:
    def __init__(
        self, config: ModelConfig, weights: Mapping[str, Tensor], kv: Tensor, attention: PagedAttention
    ) -> None:
        """weights: of this layer; kv: (2, block, block_tokens, kv_head, dim)."""
        self._config = config
        self._kv = kv
        self._attention = attention
        # ((heads + 2 * kv_heads) * dim, hidden); halves of Q and K interleaved
        self._qkv = build_projection(weights, "qkv")
        self._bias = weights["qkv_bias"] if config.qkv_bias else None
        self._norms = (weights["q_norm"], weights["k_norm"]) if config.qk_norm else None  # (dim) each

    def mix(self, hidden: Tensor, rotation: Tensor, batch: DeviceBatch) -> Tensor:
        """hidden: (tokens, hidden); rotation: (tokens, 1, dim / 2) complex. Returns (tokens, heads * dim)."""
        qkv = self._qkv.apply(hidden, self._bias)
        heads = qkv.view(len(qkv), -1, self._config.head_dim)
        self._normalise(heads)
        rotate_and_store(qkv, rotation, self._kv, batch.kv_slots, self._config.num_heads)
        return self._attend(heads[:, : self._config.num_heads], batch).flatten(1)

    def _normalise(self, heads: Tensor) -> None:
        """Queries and keys in place. heads: (tokens, heads + 2 * kv_heads, dim)."""
        if self._norms is None:
            return
        config, first = self._config, 0
        for num_heads, weight in zip((config.num_heads, config.num_kv_heads), self._norms, strict=True):
            part = heads[:, first : first + num_heads]
            part.copy_(F.rms_norm(part, (config.head_dim,), weight, config.rms_norm_eps))
            first += num_heads

    def _attend(self, query: Tensor, batch: DeviceBatch) -> Tensor:
        """query: (tokens, heads, dim). Returns the same shape."""
        singles, parts = batch.num_singles, []
        if singles:
            parts.append(self._attention.decode(query[:singles], self._kv, batch))
        if len(batch.chunk_contexts):
            parts.append(self._attention.prefill(query[singles:], self._kv, batch))
        return parts[0] if len(parts) == 1 else torch.cat(parts)
