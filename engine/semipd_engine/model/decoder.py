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

from semipd_engine.model import rope
from semipd_engine.model.batch import Batch
from semipd_engine.model.config import ModelConfig
from semipd_engine.model.experts import MixtureOfExperts
from semipd_engine.model.gated_mlp import GatedMlp
from semipd_engine.model.grouped_query import GroupedQueryAttention
from semipd_engine.model.latent_attention import LatentAttention
from semipd_engine.model.projection import Projection, build_projection
from semipd_engine.model.ranks import LoneRank, Ranks, add_product, gather_logits
from semipd_engine.model.rotary import rotations
from semipd_engine.model.sharding import vocabulary_span

_LONE_RANK = LoneRank()


class Turns(Protocol):
    """Who may compute: the device is held inside `turn()`."""

    def turn(self) -> AbstractContextManager[None]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    input_norm: Tensor  # (hidden)
    attention: GroupedQueryAttention | LatentAttention
    o: Projection  # (hidden, heads * dim)
    post_norm: Tensor  # (hidden)
    feed_forward: GatedMlp | MixtureOfExperts


class Decoder:
    def __init__(
        self,
        config: ModelConfig,
        weights: Mapping[str, Tensor],
        kv: Tensor,
        ranks: Ranks = _LONE_RANK,
    ) -> None:
        """A rank's part of the model.

        weights: by the names of `semipd_engine.model.layout`; kv: (layer, *`ModelConfig.kv_layer_shape`).
        """
        self.dtype = kv.dtype
        self.kv_planes = 2 if config.latent is None else 1
        self._config = config
        self._ranks = ranks
        self._embed = weights["embed"]
        self._norm = weights["norm"]
        self._head = own_head(config, weights, ranks)
        self._layers = [
            build_layer(config, weights, layer, kv[layer], ranks) for layer in range(config.num_layers)
        ]
        self._frequencies = torch.from_numpy(rope.frequencies(config)).float()

    @torch.inference_mode()
    def forward(self, batch: Batch, turns: Turns) -> Tensor:
        """Logits of the batch's sampled tokens, (samples, vocab) fp32, with the first rank; the others have their part of them.

        A turn is taken for each layer and for the head.
        """
        residual = F.embedding(batch.token_ids, self._embed)
        rotation = rotations(batch.positions, self._frequencies, self._config.rope_magnitude)
        for layer in self._layers:
            with turns.turn():
                residual = self._compute(layer, residual, rotation, batch)
        if not len(batch.sampled_rows):
            return torch.empty(0, self._config.vocab_size)
        with turns.turn():
            chosen = residual.index_select(0, batch.sampled)
            return self._logits(self._normalise(chosen, self._norm))

    def _compute(self, layer: Layer, residual: Tensor, rotation: Tensor, batch: Batch) -> Tensor:
        """residual: (tokens, hidden); rotation: (tokens, 1, rope_dim / 2) complex."""
        mixed = layer.attention.mix(self._normalise(residual, layer.input_norm), rotation, batch)
        residual = add_product(residual, mixed, layer.o, self._ranks)
        return layer.feed_forward.add_to(residual, self._normalise(residual, layer.post_norm))

    def _logits(self, hidden: Tensor) -> Tensor:
        """(samples, vocab) fp32."""
        return gather_logits(F.linear(hidden, self._head).float(), self._config.vocab_size, self._ranks)

    def _normalise(self, values: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(values, (self._config.hidden_size,), weight, self._config.rms_norm_eps)


def build_layer(
    config: ModelConfig, weights: Mapping[str, Tensor], layer: int, kv: Tensor, ranks: Ranks
) -> Layer:
    """kv: of this layer."""
    own = weights_of_layer(weights, layer)
    experts = config.experts_of(layer)
    return Layer(
        input_norm=own["input_norm"],
        attention=(GroupedQueryAttention if config.latent is None else LatentAttention)(config, own, kv),
        o=build_projection(own, "o"),
        post_norm=own["post_norm"],
        feed_forward=GatedMlp(own, ranks) if experts is None else MixtureOfExperts(experts, own),
    )


def weights_of_layer(weights: Mapping[str, Tensor], layer: int) -> dict[str, Tensor]:
    """By the names of `semipd_engine.model.layout` behind that of the layer."""
    prefix = f"layers.{layer}."
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}


def own_head(config: ModelConfig, weights: Mapping[str, Tensor], ranks: Ranks) -> Tensor:
    """(the rank's tokens of the vocabulary, hidden). A tied head is rows of the embedding, which every rank has whole."""
    if not config.tied_embeddings:
        return weights["head"]
    return weights["embed"][slice(*vocabulary_span(config.vocab_size, ranks.number, ranks.size))]
