"""Latent attention of one layer on a GPU: decode reads the pages by a kernel, prompt chunks as on CPU."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from semipd_engine.cuda_model.attention_kernels import PagedAttention
from semipd_engine.cuda_model.device_batch import DeviceBatch
from semipd_engine.cuda_model.projection import build_projection
from semipd_engine.model.config import ModelConfig
from semipd_engine.model.latent_attention import LatentLayer
from semipd_engine.model.projection import Projection


class LatentAttention(LatentLayer[DeviceBatch]):
    def __init__(
        self, config: ModelConfig, weights: Mapping[str, Tensor], kv: Tensor, attention: PagedAttention
    ) -> None:
        super().__init__(config, weights, kv)
        self._attention = attention

    def _build_projection(self, weights: Mapping[str, Tensor], name: str) -> Projection:
        return build_projection(weights, name)

    def _decode(self, asked: Tensor, batch: DeviceBatch) -> Tensor:
        return self._attention.decode_latents(asked, self._kv, batch)
