"""The decoder: a batch of tokens through all layers, on weights and KV that other processes map too.

Between two layers the device may be given to another lane, so nothing is kept there but the residual stream.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from semipd_engine.model import attention, rope
from semipd_engine.model.batch import Batch
from semipd_engine.model.config import ModelConfig


class Turns(Protocol):
    """Who may compute: the device is held inside `turn()`."""

    def turn(self) -> AbstractContextManager[None]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerWeights:
    input_norm: Tensor  # (hidden)
    qkv: Tensor  # ((heads + 2 * kv_heads) * dim, hidden); halves of Q and K heads interleaved
    o: Tensor  # (hidden, heads * dim)
    post_norm: Tensor  # (hidden)
    gate_up: Tensor  # (2 * intermediate, hidden)
    down: Tensor  # (hidden, intermediate)


class Decoder:
    def __init__(self, config: ModelConfig, weights: Mapping[str, Tensor], kv: Tensor) -> None:
        """weights: by the names of `semipd_engine.model.layout`; kv: (layer, 2, block, block_tokens, kv_head, dim)."""
        self.dtype = kv.dtype
        self._config = config
        self._embed = weights["embed"]
        self._norm = weights["norm"]
        self._head = weights["embed" if config.tied_embeddings else "head"]
        self._layers = [
            LayerWeights(**{name: weights[f"layers.{layer}.{name}"] for name in LayerWeights.__slots__})
            for layer in range(config.num_layers)
        ]
        self._kv = list(kv.unbind(0))
        self._frequencies = torch.from_numpy(rope.frequencies(config)).float()

    @torch.inference_mode()
    def forward(self, batch: Batch, turns: Turns) -> Tensor:
        """Logits of the batch's sampled tokens, (samples, vocab) fp32. A turn is taken for each layer and for the head."""
        residual = F.embedding(batch.token_ids, self._embed)
        angles = batch.positions[:, None] * self._frequencies
        rotation = torch.polar(torch.ones_like(angles), angles)[:, None, :]
        for weights, kv in zip(self._layers, self._kv, strict=True):
            with turns.turn():
                residual = self._layer(residual, rotation, weights, kv, batch)
        if not len(batch.sampled_rows):
            return torch.empty(0, self._config.vocab_size)
        with turns.turn():
            chosen = residual.index_select(0, batch.sampled)
            return F.linear(self._normalise(chosen, self._norm), self._head).float()

    def _layer(
        self, residual: Tensor, rotation: Tensor, weights: LayerWeights, kv: Tensor, batch: Batch
    ) -> Tensor:
        """residual: (tokens, hidden); rotation: (tokens, 1, dim / 2) complex; kv: (2, block, block_tokens, kv_head, dim)."""
        config = self._config
        num_rotated = config.num_heads + config.num_kv_heads
        qkv = F.linear(self._normalise(residual, weights.input_norm), weights.qkv)
        heads = qkv.view(len(qkv), -1, config.head_dim)
        rotate(heads[:, :num_rotated], rotation)
        new = heads[:, config.num_heads :].view(len(qkv), 2, -1)
        attention.store(kv, batch.kv_slots, new)
        mixed = attention.attend(heads[:, : config.num_heads], new, kv, batch)
        residual = torch.addmm(residual, mixed, weights.o.t())
        gate, up = F.linear(self._normalise(residual, weights.post_norm), weights.gate_up).chunk(2, 1)
        return torch.addmm(residual, F.silu(gate).mul_(up), weights.down.t())

    def _normalise(self, values: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(values, (self._config.hidden_size,), weight, self._config.rms_norm_eps)


def rotate(heads: Tensor, rotation: Tensor) -> None:
    """Rotary positions in place.

    heads: (tokens, heads, dim), the halves of each head interleaved; rotation: (tokens, 1, dim / 2) complex64.
    """
    tokens, num_heads, dim = heads.shape
    pairs = torch.view_as_complex(heads.float().view(tokens, num_heads, dim // 2, 2))
    pairs.mul_(rotation)
    if heads.dtype != torch.float32:
        heads.copy_(torch.view_as_real(pairs).flatten(2))
