"""The decoder on the kernels: a batch through the layers, as many at a time as the caller wants.

What is kept between two layers is the residual stream and the last block's output, which the next norm adds to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from semipd_engine.cuda_model.attention_kernels import PagedAttention
from semipd_engine.cuda_model.device_batch import DeviceBatch
from semipd_engine.cuda_model.feed_forward import GatedMlp, MixtureOfExperts
from semipd_engine.cuda_model.grouped_query import GroupedQueryAttention
from semipd_engine.cuda_model.latent_attention import LatentAttention
from semipd_engine.cuda_model.projection import build_projection
from semipd_engine.kernels.rms_norm import add_rms_norm
from semipd_engine.model import rope
from semipd_engine.model.config import ModelConfig
from semipd_engine.model.decoder import own_head, weights_of_layer
from semipd_engine.model.projection import Projection
from semipd_engine.model.ranks import LoneRank, Ranks, gather_logits
from semipd_engine.model.rotary import rotations


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    input_norm: Tensor  # (hidden)
    attention: GroupedQueryAttention | LatentAttention
    o: Projection  # (hidden, heads * dim)
    post_norm: Tensor  # (hidden)
    feed_forward: GatedMlp | MixtureOfExperts


class Decoder:
    """asks_host: whether a step waits in the middle for numbers of the device, which a CUDA graph cannot hold."""

    def __init__(
        self,
        config: ModelConfig,
        weights: Mapping[str, Tensor],
        kv: Tensor,
        attention: PagedAttention,
        ranks: Ranks | None = None,
    ) -> None:
        """weights: by the names of `semipd_engine.model.layout`; kv: (layer, *`ModelConfig.kv_layer_shape`).

        ranks: those among which all of this is one rank's shard; None: there is one.
        """
        self.config = config
        self.ranks = ranks or LoneRank()
        self.embed = weights["embed"]
        self.norm = weights["norm"]
        self.head = own_head(config, weights, self.ranks)
        self.attention = attention
        self.layers = [
            _build_layer(config, weights, layer, kv[layer], attention) for layer in range(config.num_layers)
        ]
        self.has_latents = config.latent is not None
        self.has_fp8 = any(weight.dtype == torch.float8_e4m3fn for weight in weights.values())
        self.asks_host = any(layer.feed_forward.asks_host for layer in self.layers)
        self._frequencies = torch.from_numpy(rope.frequencies(config)).float().to(kv.device)

    def start(self, batch: DeviceBatch) -> Forward:
        return Forward(self, batch)

    def rotation(self, positions: Tensor) -> Tensor:
        """(tokens, 1, rope_dim / 2) complex64."""
        return rotations(positions, self._frequencies, self.config.rope_magnitude)


class Forward:
    """One batch on its way. Each call only launches: nothing waits for the device, unless the decoder asks the host."""

    def __init__(self, decoder: Decoder, batch: DeviceBatch) -> None:
        self._decoder = decoder
        self._batch = batch
        self._residual = F.embedding(batch.token_ids, decoder.embed)
        self._addend: Tensor | None = None
        self._rotation = decoder.rotation(batch.positions)
        self.layers_left = len(decoder.layers)

    def advance(self, layers: int) -> None:
        """The next `layers` layers, or as many as are left."""
        first = len(self._decoder.layers) - self.layers_left
        for layer in self._decoder.layers[first : first + layers]:
            self._run_layer(layer)
            self.layers_left -= 1

    def logits(self, out: Tensor | None = None) -> Tensor:
        """Of the batch's sampled tokens, (samples, vocab) fp32, after the last layer. out: where to write them.

        Only with the first rank; what the others get is of no use.
        """
        assert self.layers_left == 0, self.layers_left
        residual, addend = self._residual, self._addend
        if self._batch.sampled is not None:
            residual = residual.index_select(0, self._batch.sampled)
            addend = addend.index_select(0, self._batch.sampled) if addend is not None else None
        normed = add_rms_norm(residual, addend, self._decoder.norm, self._decoder.config.rms_norm_eps)
        ranks, vocab_size = self._decoder.ranks, self._decoder.config.vocab_size
        narrow = gather_logits(F.linear(normed, self._decoder.head), vocab_size, ranks)
        if ranks.number > 0:
            return narrow
        return narrow.float() if out is None else out.copy_(narrow)

    def _run_layer(self, layer: Layer) -> None:
        epsilon, ranks = self._decoder.config.rms_norm_eps, self._decoder.ranks
        normed = add_rms_norm(self._residual, self._addend, layer.input_norm, epsilon)
        mixed = ranks.sum(layer.o.apply(layer.attention.mix(normed, self._rotation, self._batch)))
        normed = add_rms_norm(self._residual, mixed, layer.post_norm, epsilon)
        self._addend = ranks.sum(layer.feed_forward.compute(normed))


def _build_layer(
    config: ModelConfig, weights: Mapping[str, Tensor], layer: int, kv: Tensor, attention: PagedAttention
) -> Layer:
    """kv: of this layer."""
    own, experts = weights_of_layer(weights, layer), config.experts_of(layer)
    kind = GroupedQueryAttention if config.latent is None else LatentAttention
    return Layer(
        input_norm=own["input_norm"],
        attention=kind(config, own, kv, attention),
        o=build_projection(own, "o"),
        post_norm=own["post_norm"],
        feed_forward=GatedMlp(own) if experts is None else MixtureOfExperts(experts, own),
    )
